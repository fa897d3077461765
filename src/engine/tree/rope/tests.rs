//! What the logits of whole models could hide.

use super::*;

fn rope(scaling: Scaling) -> Rope {
    Rope { theta: 10_000.0, scaling }
}

#[test]
fn llama_3_keeps_high_frequencies_divides_low_ones_and_joins_them_between() {
    let plain = rope(Scaling::Default).frequencies(128);
    // As Llama 3.1 has it, but for the base.
    let scaled =
        rope(Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8_192.0 }).frequencies(128);
    let mut kinds = [0; 3];
    for (plain, scaled) in plain.iter().zip(&scaled) {
        let wavelength = 2.0 * PI / f64::from(*plain);
        let kind = if wavelength < 2_048.0 {
            assert_eq!(scaled, plain);
            0
        } else if wavelength > 8_192.0 {
            assert_eq!(*scaled, plain / 8.0);
            1
        } else {
            assert!(*scaled < *plain && *scaled > plain / 8.0);
            2
        };
        kinds[kind] += 1;
    }
    assert!(kinds.iter().all(|n| *n > 0), "{kinds:?}: every kind occurs");
    assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]), "frequencies fall");
}

#[test]
fn yarn_goes_from_kept_to_divided_over_the_ramp() {
    let plain = rope(Scaling::Default).frequencies(128);
    let yarn = |truncate, fast| Scaling::Yarn {
        factor: 4.0,
        fast,
        slow: 1.0,
        truncate,
        attention: 1.2,
        original: 4_096.0,
    };
    let scaled = rope(yarn(true, 32.0)).frequencies(128);
    let ratio: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
    assert!((ratio[0] - 1.0).abs() < 1e-6 && (ratio[63] - 4.0).abs() < 1e-5, "{ratio:?}");
    assert!(ratio.windows(2).all(|pair| pair[0] <= pair[1] + 1e-5), "{ratio:?}");
    assert!(ratio.iter().filter(|r| **r > 1.01 && **r < 3.99).count() > 5, "{ratio:?}");
    assert_ne!(rope(yarn(false, 32.0)).frequencies(128), scaled);
    // No ramp at all is a step, not a division by zero.
    assert!(rope(yarn(true, 1.0)).frequencies(128).iter().all(|f| f.is_finite()));
    assert!(rope(yarn(false, 1.0)).frequencies(128).iter().all(|f| f.is_finite()));
    assert_eq!(rope(yarn(true, 32.0)).attention(), 1.2);
}

#[test]
fn a_scaling_stretches_the_context_and_never_shrinks_it() {
    let llama3 = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8_192.0 };
    assert_eq!(rope(llama3).context(131_072), 131_072);
    assert_eq!(rope(Scaling::Linear { factor: 4.0 }).context(4_096), 16_384);
    assert_eq!(rope(Scaling::Linear { factor: 0.5 }).context(4_096), 4_096);
    assert_eq!(rope(Scaling::Linear { factor: 1e30 }).context(4_096), u32::MAX as usize);
    let yarn = |original| Scaling::Yarn {
        factor: 4.0,
        fast: 32.0,
        slow: 1.0,
        truncate: true,
        attention: 1.0,
        original,
    };
    assert_eq!(rope(yarn(32_768.0)).context(32_768), 131_072);
    assert_eq!(rope(yarn(4_096.0)).context(131_072), 131_072);
}
