//! What becomes of settings, and of sizes in small budgets.

use super::*;
use crate::plan::Setting;
use proptest::prelude::*;

const VERIFIERS: Verifiers = Verifiers { prm: Some(Aggregate::Prod), judge: Some(Aggregate::Mean) };

fn made(name: ModeName, settings: &[(Parameter, Setting)], verifiers: Verifiers) -> (Mode, Vec<String>) {
    let mut all = Settings::default();
    settings.iter().for_each(|(parameter, setting)| all.set(*parameter, *setting));
    let mut notes = Vec::new();
    (Mode::new(name, &all, verifiers, &mut notes), notes)
}

/// The sizes that a small budget lowers.
fn sizes_of(mode: Mode) -> Vec<u32> {
    let settings = mode.settings();
    let sizes = [Parameter::Branches, Parameter::Width, Parameter::Expansion];
    sizes.into_iter().filter(|size| settings.get(*size).is_some()).map(|size| settings.count(size)).collect()
}

#[test]
fn every_mode_has_its_own_name() {
    for name in ModeName::ALL {
        let (mode, notes) = made(name, &[], VERIFIERS);
        let chosen = matches!(name, ModeName::Standard | ModeName::Pro);
        assert_eq!(mode.kind(), if chosen { ModeName::Cot } else { name });
        assert!(notes.is_empty(), "{notes:?}");
        assert!(mode.alive() >= mode.branches().unwrap_or(1));
    }
}

#[test]
fn every_setting_reaches_its_mode() {
    use Setting::{Choice, Count, Flag, Number};
    let of = |name, settings: &[(Parameter, Setting)]| made(name, settings, VERIFIERS).0;
    let vote = [
        (Parameter::Branches, Count(9)),
        (Parameter::Wave, Count(3)),
        (Parameter::Stop, Choice("posterior")),
        (Parameter::StopConfidence, Number(0.8)),
        (Parameter::Vote, Choice("verifier")),
        (Parameter::Aggregate, Choice("min")),
        (Parameter::VoteLikelihood, Number(0.25)),
    ];
    let expected = Voting {
        likelihood: 0.25,
        branches: 9,
        wave: 3,
        stop: VoteStop::Posterior(0.8),
        weight: Weight::Score(Aggregate::Min),
    };
    assert_eq!(of(ModeName::SelfConsistency, &vote), Mode::SelfConsistency(expected));
    let vote = [
        (Parameter::Stop, Choice("fixed")),
        (Parameter::Vote, Choice("confidence")),
        (Parameter::Confidence, Choice("bottom")),
        (Parameter::ConfidenceWindow, Count(7)),
        // It is of scores.
        (Parameter::VoteLikelihood, Number(0.25)),
    ];
    let weight = Weight::Confidence(Measure { over: Over::Bottom, window: 7 });
    let expected = Voting { branches: 16, wave: 16, stop: VoteStop::Fixed, weight, likelihood: 0.0 };
    let vote = of(ModeName::SelfConsistency, &vote);
    assert_eq!(vote, Mode::SelfConsistency(expected));
    assert!(vote.reads_confidence() && vote.asks().is_none());
    let vote = [(Parameter::Stop, Choice("fixed")), (Parameter::VoteLikelihood, Number(0.25))];
    assert_eq!(of(ModeName::SelfConsistency, &vote), Mode::vote(16), "every vote counts 1");
    let best = [(Parameter::Rank, Choice("judge")), (Parameter::Weighted, Flag(false))];
    let best = of(ModeName::BestOfN, &best);
    assert_eq!(
        best,
        Mode::BestOfN(Best {
            branches: 16,
            by: Rank::Judge(Aggregate::Mean),
            weighted: false,
            likelihood: 0.0
        })
    );
    assert_eq!(best.asks(), Some(Asks::Judge));
    let beam = [
        (Parameter::Width, Count(3)),
        (Parameter::Expansion, Count(5)),
        (Parameter::Variant, Choice("rebase")),
        (Parameter::Balance, Number(0.5)),
        (Parameter::Lookahead, Count(2)),
        (Parameter::MaxSteps, Count(6)),
        (Parameter::StepTokens, Count(70)),
        (Parameter::Final, Choice("best")),
        (Parameter::VoteLikelihood, Number(0.25)),
        (Parameter::RankLikelihood, Number(0.5)),
        (Parameter::Repeats, Count(2)),
    ];
    let expected = Beam {
        likelihood: (0.25, 0.5),
        width: 3,
        expansion: 5,
        variant: Variant::Balanced(0.5),
        lookahead: 2,
        scoring: Scoring::Verifier(Aggregate::Prod),
        choice: Final::Best,
        steps: Steps { most: 6, tokens: 70, repeats: 2 },
    };
    assert_eq!(of(ModeName::Lookahead, &beam), Mode::Beam(expected));
    let plain = Beam { lookahead: 0, ..expected };
    assert_eq!(of(ModeName::Beam, &beam), Mode::Beam(plain));
    let tree = [
        (Parameter::Simulations, Count(5)),
        (Parameter::SearchTokens, Count(700)),
        (Parameter::Select, Choice("puct")),
        (Parameter::Exploration, Number(2.0)),
        (Parameter::ExplorationBase, Number(100.0)),
        (Parameter::Widening, Number(0.5)),
        (Parameter::WideningFactor, Number(3.0)),
        (Parameter::Value, Choice("step")),
        (Parameter::Final, Choice("visits")),
        (Parameter::InFlight, Count(1)),
        (Parameter::Enough, Number(0.9)),
        (Parameter::EnoughScore, Number(0.7)),
        (Parameter::EnoughAfter, Count(6)),
    ];
    let expected = Mcts {
        likelihood: 0.0,
        simulations: 5,
        tokens: 700,
        width: 4,
        select: Select::Puct { init: 2.0, base: 100.0 },
        widening: Some((0.5, 3.0)),
        scoring: Scoring::Verifier(Aggregate::Prod),
        whole: false,
        choice: Final::Visits,
        in_flight: 1,
        enough: Some(Enough { after: 6, share: 0.9, score: 0.7 }),
        steps: Steps { most: 40, tokens: 256, repeats: 0 },
    };
    assert_eq!(of(ModeName::Mcts, &tree), Mode::Mcts(expected));
    let probe = [(Parameter::Probe, Count(2)), (Parameter::ProbeConfidence, Number(0.7))];
    // It is over where its own two say so.
    let auto = Auto { probe: 2, confidence: 0.7, tree: Mcts { enough: None, ..expected } };
    assert_eq!(of(ModeName::Auto, &[&tree[..], &probe].concat()), Mode::Auto(auto));
    let rollouts = [(Parameter::Value, Choice("rollouts")), (Parameter::Rollouts, Count(3))];
    let rollouts = of(ModeName::Mcts, &rollouts);
    assert!(matches!(rollouts, Mode::Mcts(Mcts { scoring: Scoring::Rollouts(3), .. })));
    assert_eq!(rollouts.asks(), None);
}

/// Settings that differ from the defaults, by the mode whose every way they try.
fn variations() -> Vec<Vec<(Parameter, Setting)>> {
    use Setting::{Choice, Count, Flag, Number};
    let words = |parameter: Parameter| match parameter.spec().kind {
        crate::plan::Kind::Choice(words) => words.iter().map(|word| Choice(word)).collect(),
        _ => Vec::new(),
    };
    // Everything off its default, so that what is not shown would be missed.
    let others = [
        (Parameter::Branches, Count(9)),
        (Parameter::Wave, Count(3)),
        (Parameter::StopConfidence, Number(0.8)),
        (Parameter::ConfidenceWindow, Count(7)),
        (Parameter::Weighted, Flag(false)),
        (Parameter::VoteLikelihood, Number(0.25)),
        (Parameter::RankLikelihood, Number(0.5)),
        (Parameter::Width, Count(3)),
        (Parameter::Expansion, Count(5)),
        (Parameter::Repeats, Count(2)),
        (Parameter::Balance, Number(0.5)),
        (Parameter::Lookahead, Count(3)),
        (Parameter::MaxSteps, Count(6)),
        (Parameter::StepTokens, Count(70)),
        (Parameter::Simulations, Count(5)),
        (Parameter::Exploration, Number(2.0)),
        (Parameter::ExplorationBase, Number(100.0)),
        (Parameter::WideningFactor, Number(3.0)),
        (Parameter::Rollouts, Count(3)),
        (Parameter::InFlight, Count(1)),
        (Parameter::EnoughScore, Number(0.7)),
        (Parameter::EnoughAfter, Count(6)),
        (Parameter::Probe, Count(2)),
        (Parameter::ProbeConfidence, Number(0.7)),
    ];
    let mut all = vec![Vec::new(), others.to_vec()];
    for parameter in crate::plan::PARAMETERS.iter().map(|spec| spec.parameter) {
        for word in words(parameter) {
            all.push([&others[..], &[(parameter, word)]].concat());
        }
    }
    let confidence = (Parameter::Vote, Choice("confidence"));
    for over in words(Parameter::Confidence) {
        all.push([&others[..], &[confidence, (Parameter::Confidence, over)]].concat());
    }
    for (parameter, count) in [(Parameter::Wave, 1), (Parameter::Wave, 200)] {
        let window = (Parameter::Stop, Choice("window"));
        all.push([&others[..], &[window, (parameter, Count(count))]].concat());
    }
    let ends = [(Parameter::Widening, Number(0.5)), (Parameter::Enough, Number(0.9))];
    all.push([&others[..], &ends].concat());
    all
}

#[test]
fn what_a_mode_shows_are_its_own_parameters_and_make_the_same_mode_again() {
    let none = Verifiers::default();
    for name in ModeName::ALL {
        for verifiers in [VERIFIERS, none, Verifiers { judge: None, ..VERIFIERS }] {
            for asked in variations() {
                let mode = made(name, &asked, verifiers).0;
                for mode in [Some(mode), mode.within(7)].into_iter().flatten() {
                    let shown: Vec<_> = mode.settings().iter().collect();
                    let own = |parameter: &Parameter| parameter.spec().modes.contains(&mode.kind());
                    assert!(shown.iter().all(|(parameter, _)| own(parameter)), "{mode:?} {shown:?}");
                    assert_eq!(made(mode.kind(), &shown, verifiers).0, mode, "{asked:?} {shown:?}");
                    // Whatever else had been asked for: what is not shown had no part. What is shown rules.
                    let over = [&asked[..], &shown].concat();
                    assert_eq!(made(mode.kind(), &over, verifiers).0, mode, "{asked:?} {shown:?}");
                }
            }
        }
    }
}

#[test]
fn every_parameter_is_shown_by_a_mode_that_it_has_a_part_in() {
    for spec in &crate::plan::PARAMETERS {
        for name in spec.modes {
            let shows = |verifiers| {
                let mut modes = variations().into_iter().map(move |asked| made(*name, &asked, verifiers).0);
                modes.any(|mode| mode.settings().get(spec.parameter).is_some())
            };
            assert!(shows(VERIFIERS) || shows(Verifiers::default()), "{} of {}", spec.name, name.name());
        }
    }
}

#[test]
fn parameters_without_a_part_are_left_out() {
    use Setting::{Choice, Number};
    let shown = |name, asked: &[(Parameter, Setting)], verifiers| {
        let settings = made(name, asked, verifiers).0.settings();
        move |parameter| settings.get(parameter)
    };
    let none = Verifiers::default();
    let count = [
        (Parameter::Stop, Choice("fixed")),
        (Parameter::Vote, Choice("count")),
        (Parameter::VoteLikelihood, Number(0.1)),
    ];
    let vote = shown(ModeName::SelfConsistency, &count, VERIFIERS);
    let idle = [
        Parameter::VoteLikelihood,
        Parameter::Aggregate,
        Parameter::Wave,
        Parameter::StopConfidence,
        Parameter::Confidence,
        Parameter::ConfidenceWindow,
    ];
    assert!(idle.into_iter().all(|parameter| vote(parameter).is_none()));
    let vote = shown(ModeName::SelfConsistency, &[(Parameter::Vote, Choice("verifier"))], none);
    assert_eq!((vote(Parameter::Vote), vote(Parameter::Aggregate)), (Some(Choice("count")), None));
    let mean = [(Parameter::Vote, Choice("confidence")), (Parameter::Confidence, Choice("mean"))];
    assert_eq!(shown(ModeName::SelfConsistency, &mean, none)(Parameter::ConfidenceWindow), None);
    for (rank, verifiers) in [("verifier", none), ("judge", Verifiers { judge: None, ..VERIFIERS })] {
        let best = shown(ModeName::BestOfN, &[(Parameter::Rank, Choice(rank))], verifiers);
        assert_eq!((best(Parameter::Rank), best(Parameter::Aggregate)), (Some(Choice("likelihood")), None));
    }
    let beam = shown(ModeName::Beam, &[(Parameter::Final, Choice("visits"))], VERIFIERS);
    assert_eq!(beam(Parameter::Final), Some(Choice("vote")));
    assert_eq!((beam(Parameter::Rollouts), beam(Parameter::Balance)), (None, None));
    let ahead = shown(ModeName::Lookahead, &[], none);
    assert_eq!((ahead(Parameter::Lookahead), ahead(Parameter::Aggregate)), (None, None));
    assert_eq!(ahead(Parameter::Rollouts), Some(Setting::Count(2)));
    let tree = shown(ModeName::Mcts, &[(Parameter::Value, Choice("trajectory"))], none);
    assert_eq!((tree(Parameter::Value), tree(Parameter::Aggregate)), (Some(Choice("rollouts")), None));
    assert_eq!((tree(Parameter::Enough), tree(Parameter::EnoughScore)), (Some(Number(0.0)), None));
    assert_eq!((tree(Parameter::Widening), tree(Parameter::WideningFactor)), (Some(Number(0.0)), None));
    assert_eq!(tree(Parameter::ExplorationBase), None, "of PUCT");
}

#[test]
fn a_final_choice_that_only_a_tree_search_has_is_replaced_and_noted() {
    let visits = [(Parameter::Final, Setting::Choice("visits"))];
    let (mode, notes) = made(ModeName::Beam, &visits, VERIFIERS);
    assert!(matches!(mode, Mode::Beam(Beam { choice: Final::Vote, .. })));
    assert_eq!(notes, ["`final` by visits or value is for mcts, so a vote decides"]);
}

#[test]
fn a_window_of_one_chain_is_of_two() {
    let wave = |stop, wave| {
        let settings = [(Parameter::Stop, Setting::Choice(stop)), (Parameter::Wave, Setting::Count(wave))];
        let (mode, notes) = made(ModeName::SelfConsistency, &settings, VERIFIERS);
        let Mode::SelfConsistency(vote) = mode else { panic!("{mode:?}") };
        (vote.wave, notes.len())
    };
    assert_eq!([wave("window", 1), wave("window", 3), wave("posterior", 1)], [(2, 1), (3, 0), (1, 0)]);
}

#[test]
fn what_values_a_candidate_is_part_of_its_cost() {
    let sizes = |name, settings: &[(Parameter, Setting)], verifiers, samples| {
        let within = made(name, settings, verifiers).0.within(samples);
        within.map(sizes_of)
    };
    let lookahead = [(Parameter::Lookahead, Setting::Count(3))];
    let of = |samples| sizes(ModeName::Lookahead, &lookahead, VERIFIERS, samples);
    // As many chains vote where there are not four candidates, at four samples each.
    assert_eq!([of(64), of(32), of(15), of(1)], [Some(vec![4, 4]), Some(vec![4, 2]), Some(vec![4]), None]);
    // Where a beam has one candidate, two are not needed for it.
    let single = [(Parameter::Width, Setting::Count(8)), (Parameter::Expansion, Setting::Count(1))];
    let of = |samples| sizes(ModeName::Beam, &single, VERIFIERS, samples);
    assert_eq!(
        [of(8), of(7), of(4), of(3)],
        [Some(vec![8, 1]), Some(vec![7, 1]), Some(vec![4, 1]), Some(vec![3])]
    );
    // Two rollouts for each candidate.
    let of = |samples| sizes(ModeName::Beam, &[], Verifiers::default(), samples);
    assert_eq!([of(48), of(24), of(11)], [Some(vec![4, 4]), Some(vec![4, 2]), Some(vec![4])]);
}

/// Room for so many branches of ten blocks; a step is as long as a branch.
fn pool(branches: u32) -> Pool {
    Pool { blocks: 10 * branches, whole: 10, block: 1, sample: 1_000 }
}

#[test]
fn beams_get_narrower_until_they_and_their_candidates_can_be_alive_at_once() {
    let whole = made(ModeName::Beam, &[], VERIFIERS).0;
    for (live, expected) in [(20, [4, 4]), (19, [4, 3]), (12, [4, 2]), (11, [3, 2]), (6, [2, 2])] {
        let fitting = whole.alive_within(pool(live)).expect("it fits");
        assert_eq!(sizes_of(fitting), expected, "{live}");
        assert!(fitting.least_alive() <= live);
        assert_eq!(fitting.alive_in(pool(live), 1), live, "no more than fit");
    }
    // With fewer than two candidates for each of two beams, a vote over its candidates.
    for live in [5, 3, 1, 0] {
        assert_eq!(sizes_of(whole.alive_within(pool(live)).expect("chains take turns")), [16], "{live}");
    }
    assert_eq!(made(ModeName::Mcts, &[], VERIFIERS).0.alive_within(pool(1)), None);
    let vote = made(ModeName::SelfConsistency, &[], VERIFIERS).0;
    assert_eq!(vote.alive_within(pool(1)), Some(vote), "chains take turns");
    assert_eq!(vote.alive_in(pool(3), 2), 3);
}

#[test]
fn a_candidate_takes_no_more_of_the_pool_than_the_steps_of_its_own() {
    // 1,024 positions of a branch, 256 of a step and one block that is copied.
    let pool = |blocks| Pool { blocks, whole: 64, block: 16, sample: 512 };
    let size = [(Parameter::Width, Setting::Count(8)), (Parameter::Expansion, Setting::Count(4))];
    let fitting = |name, verifiers, blocks| {
        let mode = made(name, &size, verifiers).0.alive_within(pool(blocks))?;
        let sizes = sizes_of(mode);
        Some((sizes[0], sizes[1], mode.alive_in(pool(blocks), 1)))
    };
    let beam = |blocks| fitting(ModeName::Beam, VERIFIERS, blocks);
    let whole = made(ModeName::Beam, &size, VERIFIERS).0;
    let searches = |blocks| matches!(whole.alive_within(pool(blocks)), Some(Mode::Beam(_)));
    // 8 * 64 and 32 * 17; what is left is room for more of the latter.
    assert_eq!(beam(1_056), Some((8, 4, 40)));
    assert_eq!(beam(1_170), Some((8, 4, 46)), "of which 18 would be whole branches");
    assert_eq!(beam(1_055), Some((8, 3, 39)));
    assert_eq!(beam(2 * 98), Some((2, 2, 6)));
    assert!(!searches(2 * 98 - 1), "far too little is told");
    assert_eq!(beam(1 << 20), Some((8, 4, 72)), "no more than it likes to have");
    // A rollout of two steps beside each candidate takes 49 blocks with it.
    let steps = [(Parameter::Lookahead, Setting::Count(2))];
    let ahead = made(ModeName::Lookahead, &[&size[..], &steps].concat(), VERIFIERS).0;
    assert_eq!(ahead.alive_within(pool(8 * 64 + 32 * 49)), Some(ahead));
    assert_ne!(ahead.alive_within(pool(8 * 64 + 32 * 49 - 1)), Some(ahead));
    // Completions are whole branches.
    assert_eq!(fitting(ModeName::Beam, Verifiers::default(), 40 * 64), Some((8, 4, 40)));
    assert_ne!(fitting(ModeName::Beam, Verifiers::default(), 40 * 64 - 1), Some((8, 4, 40)));
}

#[test]
fn choices_whose_beams_do_not_all_fit_at_once_take_turns() {
    let size = [(Parameter::Width, Setting::Count(8)), (Parameter::Expansion, Setting::Count(4))];
    let beam = made(ModeName::Beam, &size, VERIFIERS).0;
    let pool = |blocks| Pool { blocks, whole: 64, block: 16, sample: 512 };
    assert_eq!(beam.alive_in(pool(2 * 1_056), 2), 80, "both at once");
    assert_eq!(beam.alive_in(pool(2 * 1_056 - 1), 2), 40, "one after the other");
    assert_eq!(beam.alive_in(pool(1 << 20), 3), 3 * beam.alive());
}

proptest! {
    #[test]
    fn more_budget_never_makes_a_mode_smaller(
        (width, expansion, branches) in (1u32..65, 1u32..33, 2u32..257),
        (lookahead, rollouts, verifier) in (1u32..17, 2u32..17, any::<bool>()),
        (less, more) in (0u32..3_000, 0u32..3_000),
    ) {
        let settings = [
            (Parameter::Branches, Setting::Count(branches)),
            (Parameter::Width, Setting::Count(width)),
            (Parameter::Expansion, Setting::Count(expansion)),
            (Parameter::Lookahead, Setting::Count(lookahead)),
            (Parameter::Rollouts, Setting::Count(rollouts)),
        ];
        let verifiers = if verifier { VERIFIERS } else { Verifiers::default() };
        // Few of either, where beams become votes, as often as many.
        for (less, more) in [(less.min(less + more), less + more), (less % 64, less % 64 + more % 64)] {
            for name in ModeName::ALL {
                let whole = made(name, &settings, verifiers).0;
                prop_assert_eq!(whole.within(100_000), Some(whole), "room for all of it");
                let Some(small) = whole.within(less) else {
                    prop_assert!(less < 2 && whole.selects());
                    continue;
                };
                let Some(large) = whole.within(more) else { return Err(TestCaseError::fail("more is less")) };
                // A tree search has no size that a budget lowers.
                if whole.tree().is_some() {
                    prop_assert_eq!((small, large), (whole, whole));
                    continue;
                }
                // Beams, and the candidates or chains that a search chooses among.
                let size = |mode: Mode| match mode {
                    Mode::Beam(beam) => (beam.width, beam.width * beam.expansion),
                    other => (1, other.branches().unwrap_or(1)),
                };
                let (small, large) = (size(small), size(large));
                prop_assert!(small.0 <= large.0 && small.1 <= large.1, "{name:?} {small:?} {large:?}");
                prop_assert!(!whole.selects() || small.1 <= less, "{name:?} {small:?}");
            }
        }
    }
}
