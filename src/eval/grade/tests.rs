//! Verdicts, beside those of the suite's own checker and of each kind of check.

use super::*;

fn verdict(check: &Check, answer: &str, text: &str) -> bool {
    is_right(check, answer, Response::undivided(text))
}

#[derive(Deserialize)]
struct Graded {
    problem: String,
    answer: String,
    check: Check,
    text: String,
    right: bool,
}

#[test]
fn every_verdict_is_that_of_the_suites_own_checker() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/grades.jsonl");
    let file = std::fs::read_to_string(path).unwrap();
    let graded: Vec<Graded> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(graded.len() > 300);
    for g in graded {
        assert_eq!(verdict(&g.check, &g.answer, &g.text), g.right, "{}\n{:?}", g.problem, g.text);
    }
}

#[test]
fn spellings_of_one_answer_are_equivalent_and_others_are_not() {
    for (text, right) in [
        ("So \\boxed{\\frac{1}{2}}.", true),
        ("The answer is 0.5.", true),
        ("\\boxed{50\\%}", false),
        ("The final answer is:\n\n\\[ \\frac{1}{2}\\text{ cm}^2 \\]", true),
        ("\\boxed{\\frac{1}{2}\\mathrm{i}}", false),
        ("no idea", false),
    ] {
        assert_eq!(verdict(&Check::Equiv, "1/2", text), right, "{text}");
    }
    assert!(!verdict(&Check::Answer, "1/2", "\\boxed{1/2}"), "only integers");
}

#[test]
fn a_hidden_end_of_the_thought_does_not_hide_the_answer() {
    let thought = "<think>\nIs it \\boxed{3}?\n";
    for (content, given) in [("It is \\boxed{\\frac{1}{2}}.", Some("\\frac{1}{2}")), ("No idea.", None)] {
        let whole = format!("{thought}{content}");
        let response = Response { content, whole: &whole };
        assert_eq!(Check::Equiv.given(response).as_deref(), given);
        assert_eq!(is_right(&Check::Equiv, "0.5", response), given.is_some(), "{content}");
    }
    // A server may call all of it a thought, or leave the marker where it was.
    for (content, whole) in [("", "So \\boxed{5}"), ("", "<think>3</think>\\boxed{5}")] {
        assert!(is_right(&Check::Equiv, "5", Response { content, whole }), "{whole}");
    }
}

#[test]
fn the_last_number_is_the_answer_where_a_suite_says_so() {
    for (text, answer, right) in [
        ("So he pays 3 times $411.50, which is $1,234.50.", "1234.5", true),
        ("It falls to -7 degrees.", "-7", true),
        ("It falls to 7 degrees.", "-7", false),
        ("There are 5 cats and 2 dogs.", "5", false),
        ("It costs \\boxed{1{,}234}. (That took 3 steps.)", "1234", true),
        ("It costs \\boxed{1,\\!234}.", "1,234", true),
        ("It falls to −5 degrees.", "-5", true),
        ("It falls to −5 degrees.", "5", false),
        ("The change is -$3.", "-3", true),
        ("The area is 42 cm^2", "42", true),
        ("\\boxed{42\\text{ cm}^2}", "42", true),
        ("Five.", "5", false),
    ] {
        assert_eq!(verdict(&Check::Number, answer, text), right, "{text}");
    }
    assert!(!verdict(&Check::Equiv, "5", "There are 5."), "a number alone is no answer elsewhere");
}

#[test]
fn a_choice_is_its_letter_whatever_the_words_behind_it() {
    for (text, right) in [
        ("The answer is (B) Paris.", true),
        ("Not A.\n\n**Answer:** B", true),
        ("\\boxed{\\text{B}}", true),
        ("The answer is (C) Paris.", false),
        ("The answer is Paris.", false),
        ("The correct option is B, because A is too small.", true),
        ("B) Paris", true),
        ("**B**", true),
        ("A) London", false),
        ("The answer is A or B.", false),
    ] {
        assert_eq!(verdict(&Check::Choice, "B", text), right, "{text}");
    }
    let hidden = Response { content: "Answer: B", whole: "<think>A or B?\nAnswer: B" };
    assert_eq!(Check::Choice.given(hidden).as_deref(), Some("B"));
}

#[test]
fn a_legal_step_into_a_dead_end_is_wrong() {
    let check = Check::Countdown { numbers: vec![25, 16, 20], target: 61 };
    let end = "The answer is \\boxed{61}.";
    let good = format!("25 + 16 = 41, left: 20, 41\n\n20 + 41 = 61\n\n{end}");
    assert!(verdict(&check, "61", &good));
    let dead = format!("25 - 16 = 9, left: 20, 9\n\n20 + 9 = 29\n\n{end}");
    assert!(!verdict(&check, "61", &dead));
}

#[test]
fn numbers_beyond_any_machine_word_are_wrong_not_a_panic() {
    let check = Check::Countdown { numbers: vec![1, 2], target: 3 };
    let huge = "9".repeat(80);
    assert!(!verdict(&check, "3", &format!("{huge} + 2 = 3\n\nThe answer is \\boxed{{3}}.")));
}
