//! Each parameter against its definition.

use super::*;
use crate::engine::rng::uniform;

fn plain() -> Sampling {
    Sampling::default()
}

fn sample(logits: &[f32], sampling: Sampling, uniform: f64) -> Drawn {
    sample_after(logits, &sampling, (&[], 0), uniform)
}

/// Draws after some tokens, the first of which are the prompt.
fn sample_after(
    logits: &[f32],
    sampling: &Sampling,
    (tokens, prompt): (&[TokenId], usize),
    uniform: f64,
) -> Drawn {
    let ask = Ask { sampling, tokens, prompt, uniform, top: 2 };
    draw(Kernels::detect(), logits, ask, &mut Scratch::default()).expect("finite logits")
}

#[test]
fn frequencies_follow_the_softmax_at_each_temperature() {
    let logits = [1.0f32, 0.0, -1.0, 2.0];
    for temperature in [0.5f32, 1.0, 2.0] {
        let mut counts = [0u32; 4];
        for position in 0..40_000 {
            let sampling = Sampling { temperature, ..plain() };
            counts[sample(&logits, sampling, uniform(9, position)).id as usize] += 1;
        }
        let total: f32 = logits.iter().map(|l| (l / temperature).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            let expected = (logit / temperature).exp() / total;
            assert!((*count as f32 / 40_000.0 - expected).abs() < 0.01, "T {temperature}: {counts:?}");
        }
    }
}

#[test]
fn the_nucleus_is_the_smallest_set_that_holds_top_p() {
    // Probabilities 0.5, 0.25, 0.125, 0.125.
    let logits = [0.25f32.ln(), 0.5f32.ln(), 0.125f32.ln(), 0.125f32.ln()];
    for (top_p, allowed) in [(0.4, vec![1]), (0.6, vec![0, 1]), (0.8, vec![0, 1, 2])] {
        let mut seen: Vec<TokenId> =
            (0..4_000).map(|p| sample(&logits, Sampling { top_p, ..plain() }, uniform(1, p)).id).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, allowed, "top_p {top_p}");
    }
}

#[test]
fn log_probabilities_are_those_of_the_model_whatever_the_temperature() {
    let logits = [0.0f32, 1.0, 2.0];
    let total: f32 = logits.iter().map(|l| l.exp()).sum();
    for temperature in [0.0, 0.3, 2.0] {
        let drawn = sample(&logits, Sampling { temperature, top_p: 0.9, ..plain() }, 0.2);
        assert!((drawn.logprob - (logits[drawn.id as usize] - total.ln())).abs() < 1e-6);
        assert_eq!(drawn.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals_and_broken_logits_are_refused() {
    assert_eq!(sample(&[1.0, 3.0, 3.0], Sampling { temperature: 0.0, ..plain() }, 0.9).id, 1);
    assert_eq!(sample(&[f32::NAN, 0.0, f32::NEG_INFINITY], plain(), 0.99).id, 1);
    let ask = Ask { sampling: &plain(), tokens: &[], prompt: 0, uniform: 0.5, top: 0 };
    assert_eq!(draw(Kernels::detect(), &[f32::NAN; 3], ask, &mut Scratch::default()), None);
}

#[test]
fn what_is_no_number_is_never_drawn_nor_reported_and_takes_nothing_from_the_others() {
    let logits = [f32::NAN, 1.0, f32::INFINITY, 2.0, f32::NEG_INFINITY, 1.5];
    let without: Vec<f32> = logits.into_iter().filter(|logit| logit.is_finite()).collect();
    let ids = [1, 3, 5];
    for sampling in [
        plain(),
        Sampling { temperature: 0.0, ..plain() },
        Sampling { temperature: 2.0, ..plain() },
        Sampling { top_p: 0.8, ..plain() },
        Sampling { min_p: 0.5, ..plain() },
        Sampling { top_k: 2, ..plain() },
        Sampling { bias: [(1, 0.75), (2, -3.0)].into(), ..plain() },
        Sampling { repetition_penalty: 1.3, ..plain() },
    ] {
        let among_others = Sampling { bias: [(0, 0.75)].into(), ..sampling.clone() };
        let alone = if sampling.bias.is_empty() { &sampling } else { &among_others };
        for position in 0..1_000 {
            let uniform = uniform(5, position);
            let drawn = sample_after(&logits, &sampling, (&[2, 3], 1), uniform);
            let expected = sample_after(&without, alone, (&[1], 0), uniform);
            assert_eq!(drawn.id, ids[expected.id as usize], "{sampling:?}");
            assert!((drawn.logprob - expected.logprob).abs() < 1e-6, "{sampling:?}: {drawn:?}");
            assert_eq!(drawn.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [3, 5]);
            assert!(drawn.top.iter().all(|(_, logprob)| *logprob < 0.0), "{sampling:?}: {drawn:?}");
        }
    }
}

/// The parameters as vLLM defines them, one after the other and in double
/// precision: the probability of every token.
fn naive(logits: &[f32], sampling: &Sampling, tokens: &[TokenId], prompt: usize) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.iter().map(|l| f64::from(*l)).collect();
    for (id, bias) in sampling.bias.iter() {
        logits[*id as usize] += f64::from(*bias);
    }
    for (id, logit) in logits.iter_mut().enumerate() {
        let is = |token: &&TokenId| **token as usize == id;
        let generated = tokens[prompt..].iter().filter(is).count() as f64;
        let repetition = f64::from(sampling.repetition_penalty);
        if tokens.iter().any(|token| is(&token)) {
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        }
        *logit -= f64::from(sampling.frequency_penalty) * generated;
        *logit -= if generated > 0.0 { f64::from(sampling.presence_penalty) } else { 0.0 };
    }
    let softmax = |logits: &[f64]| {
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
        logits.iter().map(|l| (l - highest).exp() / total).collect::<Vec<f64>>()
    };
    logits.iter_mut().for_each(|l| *l /= f64::from(sampling.temperature));
    let p = softmax(&logits);
    let most = p.iter().copied().fold(0.0, f64::max);
    for (logit, p) in logits.iter_mut().zip(&p) {
        if *p < f64::from(sampling.min_p) * most {
            *logit = f64::NEG_INFINITY;
        }
    }
    let mut ranked = logits.clone();
    ranked.sort_by(|a, b| b.total_cmp(a));
    if sampling.top_k > 0 {
        let kth = ranked[(sampling.top_k as usize).min(ranked.len()) - 1];
        logits.iter_mut().filter(|l| **l < kth).for_each(|l| *l = f64::NEG_INFINITY);
    }
    let p = softmax(&logits);
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
    let mut held = 0.0;
    for id in order {
        if held >= f64::from(sampling.top_p) {
            logits[id] = f64::NEG_INFINITY;
        }
        held += p[id];
    }
    softmax(&logits)
}

#[test]
fn every_parameter_and_their_order_follow_the_definitions() {
    // Positive and negative logits; tokens of the prompt alone (0), generated
    // once (1), three times (2), of both kinds (3), and never seen.
    let logits = [1.5f32, 0.8, 2.0, -0.4, 0.3, -1.2, 1.1, 0.0];
    let tokens = [0, 3, 0, 1, 2, 3, 2, 2];
    let bias = |pairs: &[(TokenId, f32)]| -> std::sync::Arc<[(TokenId, f32)]> { pairs.into() };
    let cases = [
        plain(),
        Sampling { repetition_penalty: 1.7, ..plain() },
        Sampling { repetition_penalty: 0.6, ..plain() },
        Sampling { frequency_penalty: 0.5, ..plain() },
        Sampling { frequency_penalty: -0.7, ..plain() },
        Sampling { presence_penalty: 1.2, ..plain() },
        Sampling { presence_penalty: -2.0, ..plain() },
        Sampling { bias: bias(&[(2, -100.0), (5, 3.5)]), ..plain() },
        Sampling { top_k: 3, ..plain() },
        Sampling { top_k: 1, ..plain() },
        Sampling { top_k: 99, ..plain() },
        Sampling { min_p: 0.3, ..plain() },
        Sampling { min_p: 1.0, ..plain() },
        // Order: the nucleus is of what top_k and min_p leave, min_p looks at
        // the temperature's probabilities, and those at the penalised logits.
        Sampling { top_k: 4, top_p: 0.75, ..plain() },
        Sampling { min_p: 0.2, temperature: 2.0, ..plain() },
        Sampling { min_p: 0.2, temperature: 0.5, ..plain() },
        Sampling {
            temperature: 0.8,
            top_p: 0.9,
            top_k: 6,
            min_p: 0.05,
            repetition_penalty: 1.3,
            frequency_penalty: 0.4,
            presence_penalty: 0.3,
            bias: bias(&[(0, 1.0), (4, -0.5)]),
        },
    ];
    let neutral = naive(&logits, &plain(), &tokens, 3);
    for (number, sampling) in cases.iter().enumerate() {
        let expected = naive(&logits, sampling, &tokens, 3);
        assert!(number == 0 || sampling.top_k == 99 || expected != neutral, "{sampling:?} proves nothing");
        let draws = 40_000;
        let mut counts = vec![0u32; logits.len()];
        for position in 0..draws {
            let drawn = sample_after(&logits, sampling, (&tokens, 3), uniform(3, position));
            counts[drawn.id as usize] += 1;
        }
        for (count, expected) in counts.iter().zip(&expected) {
            let share = f64::from(*count) / draws as f64;
            assert!((share - expected).abs() < 0.01, "{sampling:?}: {counts:?}, {expected}");
            assert!(*expected > 0.0 || *count == 0, "{sampling:?}: {counts:?}");
        }
    }
}

#[test]
fn the_likeliest_token_is_taken_after_bias_and_penalties() {
    let logits = [2.0f32, 1.5, 1.0];
    let greedy = Sampling { temperature: 0.0, ..plain() };
    let id = |sampling: &Sampling| sample_after(&logits, sampling, (&[0, 0], 1), 0.5).id;
    assert_eq!(id(&greedy), 0);
    assert_eq!(id(&Sampling { repetition_penalty: 1.5, ..greedy.clone() }), 1);
    assert_eq!(id(&Sampling { frequency_penalty: 0.6, ..greedy.clone() }), 1);
    assert_eq!(id(&Sampling { presence_penalty: 0.6, ..greedy.clone() }), 1);
    assert_eq!(id(&Sampling { bias: [(2, 1.1)].into(), ..greedy.clone() }), 2);
    // Token 0 was generated once: a bit less than the distance is not enough.
    assert_eq!(id(&Sampling { frequency_penalty: 0.4, ..greedy.clone() }), 0);
    // The prompt counts for the repetition alone.
    let prompt_only = |sampling: &Sampling| sample_after(&logits, sampling, (&[0, 0], 2), 0.5).id;
    assert_eq!(prompt_only(&Sampling { frequency_penalty: 2.0, presence_penalty: 2.0, ..greedy.clone() }), 0);
    assert_eq!(prompt_only(&Sampling { repetition_penalty: 1.5, ..greedy }), 1);
}

#[test]
fn reported_log_probabilities_know_nothing_of_bias_penalties_and_cuts() {
    let logits = [2.0f32, 1.5, 1.0];
    let own = sample(&logits, plain(), 0.0);
    let changed = Sampling {
        bias: [(1, 50.0)].into(),
        repetition_penalty: 2.0,
        presence_penalty: 1.0,
        top_k: 1,
        min_p: 0.5,
        ..plain()
    };
    let drawn = sample_after(&logits, &changed, (&[0, 0], 1), 0.0);
    assert_eq!((own.id, drawn.id), (0, 1));
    assert_eq!(drawn.top, own.top);
    assert_eq!(drawn.logprob, own.top[1].1);
}

#[test]
fn counts_of_one_draw_do_not_reach_the_next() {
    let (logits, mut scratch) = ([1.0f32, 0.9, 0.5], Scratch::default());
    let sampling = Sampling { temperature: 0.0, presence_penalty: 0.3, ..plain() };
    let mut next = |tokens: &[TokenId]| {
        let ask = Ask { sampling: &sampling, tokens, prompt: 0, uniform: 0.5, top: 0 };
        draw(Kernels::detect(), &logits, ask, &mut scratch).expect("finite logits").id
    };
    assert_eq!([next(&[0]), next(&[1]), next(&[0, 1]), next(&[])], [1, 0, 0, 0]);
}
