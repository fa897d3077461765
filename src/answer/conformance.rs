//! Our verdicts beside those of the Python graders, over `tests/fixtures/answers.tsv`.
//!
//! The file (`make_answers.py` writes it) holds pairs of answers, whether they are the
//! same by construction, and what math-verify, the grader of Qwen2.5-Math and that of
//! PRM800K say. Ours is as constructed on every pair. So each disagreement is one with
//! the construction, and these are deliberate; the graders compare with a reference,
//! a vote has none:
//!
//! - Shares: `50%` is neither 50 nor 0.5. All three merge it with one or both (Qwen by
//!   its rule of x, x/100 and 100x).
//! - Precision: Qwen takes numbers within 1e-4 of each other as equal, so
//!   `\$2724` is `\$2724.12`, `12,345,678` is `12,345,679` and a root is its decimal
//!   approximation. We compare exactly.
//! - Brackets: Qwen ignores them, so `(1,2]` is `[1,2]`; math-verify takes `(1,2)`,
//!   `[1,2]` and `\{1,2\}` as one. Here a tuple, an interval and a set differ.
//! - Order: math-verify reads a bare list as a set, so `1, 2` is `2, 1`, and `1, 2, 1`
//!   is `1, 2`. Without a reference we cannot know that the order is free. Qwen and
//!   PRM800K compare even sets and unions in order; ours are free of it.
//! - Signs of relations: Qwen takes `x>9` and `x<9` as one. Unions too: it loses the
//!   brackets. It and PRM800K do not turn `x>9` into `9<x`, and PRM800K does not
//!   move terms across an equation's sign.
//! - Form: PRM800K wants fractions reduced as the reference is, and whole numbers
//!   spelled out; we compare values. It drops the degree of a root and the braces
//!   below a fraction bar (`10/(3\pi)` is `10\pi/3`): its faults.
//! - Products: math-verify does not multiply brackets side by side, `(9)(3)`, and
//!   PRM800K reads no power in braces, so computes little in "arithmetic".
//! - Values: Qwen takes no special angle, PRM800K reads no functions (`\ln 2+\ln 4` is
//!   its `\ln 6`), and none of them takes `\sin 30^\circ` or a real cube root of a
//!   negative number. math-verify and Qwen take a decimal of many digits as the root or
//!   logarithm that it approximates. Qwen takes `\log` for `\ln`; ours has no base.
//! - Mixed numbers: Qwen multiplies `3\frac{5}{12}`, math-verify `3 5/12`.
//! - Spelling that one or the other does not read: `√`, `π`, `°`, `∞`, `\boxed` inside
//!   an answer, `B)`, `1\,000`, `5 dollars`, `\ \text{cm}`, the full stop behind a
//!   word, spaces before `i`, `x \in`, the "and" of a list, other forms of a rational
//!   function.

#[cfg(test)]
mod tests {
    use super::super::equiv;
    use std::collections::BTreeMap;
    use std::fmt::Write as _;
    use std::io::Write as _;

    const GRADERS: [&str; 3] = ["math-verify", "Qwen2.5-Math", "PRM800K"];

    /// The pairs of each kind on which we agree with each grader, at the least.
    const FLOORS: &[(&str, [usize; 3])] = &[
        ("integer", [195, 170, 195]),
        ("thousands", [160, 140, 160]),
        ("decimal", [147, 136, 147]),
        ("fraction", [289, 289, 273]),
        ("mixed", [140, 100, 160]),
        ("percent", [152, 133, 152]),
        ("currency", [180, 174, 180]),
        ("unit", [159, 119, 132]),
        ("degrees", [95, 76, 76]),
        ("tuple", [224, 216, 252]),
        ("list", [142, 61, 144]),
        ("list order", [18, 36, 36]),
        ("set", [96, 48, 48]),
        ("interval", [193, 132, 177]),
        ("union", [96, 64, 80]),
        ("root", [383, 353, 353]),
        ("pi", [156, 148, 142]),
        ("polynomial", [285, 269, 285]),
        ("rational function", [96, 96, 48]),
        ("complex", [80, 96, 112]),
        ("power", [128, 121, 98]),
        ("science", [79, 80, 64]),
        ("equation", [96, 48, 64]),
        ("inequality", [91, 49, 77]),
        ("plus minus", [64, 64, 64]),
        ("matrix", [80, 80, 80]),
        ("choice", [70, 80, 70]),
        ("word", [89, 93, 95]),
        ("other", [61, 62, 62]),
        ("arithmetic", [202, 224, 157]),
        ("random", [79, 79, 79]),
        ("value", [55, 38, 27]),
    ];

    struct Pair<'a> {
        kind: &'a str,
        truth: &'a str,
        prediction: &'a str,
        same: bool,
        verdicts: &'a str,
    }

    fn pairs(file: &str) -> Vec<Pair<'_>> {
        let lines = file.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &'_ str| -> Vec<usize> { line.match_indices('\t').map(|(at, _)| at).collect() };
        lines
            .map(|line| {
                let tabs = pair(line);
                assert_eq!(tabs.len(), 4, "{line}");
                let column = |i: usize| {
                    let from = if i == 0 { 0 } else { tabs[i - 1] + 1 };
                    &line[from..tabs.get(i).copied().unwrap_or(line.len())]
                };
                Pair {
                    kind: column(0),
                    truth: column(1),
                    prediction: column(2),
                    same: column(3) == "1",
                    verdicts: column(4),
                }
            })
            .collect()
    }

    #[test]
    fn verdicts_agree_with_the_python_graders() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/answers.tsv");
        let file = std::fs::read_to_string(path).unwrap();
        let pairs = pairs(&file);
        let mut counts: BTreeMap<&str, (usize, [usize; 3])> = BTreeMap::new();
        for pair in &pairs {
            let ours = equiv(pair.truth, pair.prediction);
            assert_eq!(ours, pair.same, "{}: {} and {}", pair.kind, pair.truth, pair.prediction);
            assert_eq!(ours, equiv(pair.prediction, pair.truth), "{} and {}", pair.truth, pair.prediction);
            let (total, agreed) = counts.entry(pair.kind).or_default();
            *total += 1;
            for (count, verdict) in agreed.iter_mut().zip(pair.verdicts.chars()) {
                *count += usize::from((verdict == '1') == ours && verdict != 'x');
            }
        }
        let mut table = format!("\n{:<20}{:>8}", "agreement with", "pairs");
        for grader in GRADERS {
            write!(table, "{grader:>14}").unwrap();
        }
        let mut row = |kind: &str, total: usize, agreed: [usize; 3]| {
            write!(table, "\n{kind:<20}{total:>8}").unwrap();
            for count in agreed {
                write!(table, "{:>13.1}%", 100.0 * count as f64 / total as f64).unwrap();
            }
        };
        for (kind, (total, agreed)) in &counts {
            row(kind, *total, *agreed);
        }
        let all = [0, 1, 2].map(|grader| counts.values().map(|(_, agreed)| agreed[grader]).sum());
        row("all", pairs.len(), all);
        writeln!(std::io::stdout(), "{table}").unwrap();

        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), {
            let mut kinds: Vec<&str> = FLOORS.iter().map(|(kind, _)| *kind).collect();
            kinds.sort_unstable();
            kinds
        });
        for (kind, floors) in FLOORS {
            for ((count, floor), grader) in counts[kind].1.iter().zip(floors).zip(GRADERS) {
                assert!(count >= floor, "{kind}: {count} agreements with {grader}, not {floor}");
            }
        }
    }
}
