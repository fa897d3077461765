//! The formulas by known answers, and scripted searches whose every step is known.

use super::super::chain::tests::extend;
use super::super::conformance::{Driver, budget, fates, mcts, room};
use super::super::{Grown, NodeId, Strategy};
use super::*;
use crate::plan::{Enough, Steps};
use crate::verify::Aggregate;
use proptest::prelude::*;

fn settings() -> Mcts {
    Mcts {
        likelihood: 0.0,
        simulations: 64,
        tokens: 0,
        width: 2,
        select: Select::Uct(1.0),
        widening: None,
        scoring: Scoring::Verifier(Aggregate::Last),
        whole: false,
        choice: Final::Vote,
        in_flight: 1,
        enough: None,
        steps: Steps { most: 8, tokens: 50, repeats: 0 },
    }
}

fn search(mcts: Mcts) -> TreeSearch {
    let budget = Budget {
        tokens: 1_000,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    TreeSearch::new(mcts, budget, None)
}

/// Of many simulations that share too few tokens none would come to its end.
#[test]
fn no_more_simulations_are_under_way_than_have_tokens_to_end() {
    let begun = |tokens, scoring| {
        let budget = Budget {
            tokens,
            reserve: 0,
            branches: 100,
            branch_tokens: 500,
            sample: 30,
            verifier_tokens: None,
        };
        let steps = Steps { tokens: 10, ..settings().steps };
        let mcts = Mcts { in_flight: 8, width: 16, steps, scoring, ..settings() };
        asked(&mut TreeSearch::new(mcts, budget, None)).len()
    };
    let scored = Scoring::Verifier(Aggregate::Last);
    // Each is granted a step of ten, and may need thirty.
    assert_eq!([begun(5, scored), begun(69, scored), begun(70, scored)], [1, 1, 2]);
    assert_eq!([begun(110, scored), begun(1_000, scored)], [3, 8]);
    assert_eq!([begun(129, Scoring::Rollouts(1)), begun(130, Scoring::Rollouts(1))], [1, 2]);
}

#[test]
fn whole_chains_say_nothing_about_how_long_a_step_is() {
    let mut grove = search(settings()).grove;
    let growth = Growth { until: Until::End, greedy: false, score: false, most: 100 };
    grove.grow(None, growth, u32::MAX);
    grove.land(0, Outcome::Grown(Grown { tokens: 100, complete: true, ..Grown::default() }));
    assert_eq!(grove.affordable(), 56, "900 at 16 each");
    grove.grow(None, Growth { until: Until::Step, ..growth }, u32::MAX);
    grove.land(1, Outcome::Grown(Grown { tokens: 50, extensible: true, ..Grown::default() }));
    assert_eq!(grove.affordable(), 17, "850 at 50 each");
}

/// A large budget is no reason to spend it.
#[test]
fn no_simulation_is_begun_after_so_many_tokens_and_nothing_lacks() {
    let spent = |tokens| {
        let mut tree = search(Mcts { tokens, width: 64, whole: true, ..settings() });
        let mut told = 0;
        loop {
            let begun = asked(&mut tree);
            if begun.is_empty() {
                break;
            }
            for _ in begun {
                tree.tell(told, end(1 + told as u32, 0.5, "4"));
                told += 1;
            }
        }
        assert!(tree.is_done() && tree.starved().is_none());
        2 * told
    };
    // Two tokens each; one trajectory comes to its end whatever it takes.
    assert_eq!([1, 2, 3, 10, 0].map(spent), [2, 2, 4, 10, 128]);
}

/// A step of two tokens that ends with `word`, and its score.
fn step(word: u32, score: f64) -> Outcome {
    Outcome::Grown(Grown {
        tokens: 2,
        ids: vec![1, word],
        text: "so\n\n".to_owned(),
        mean_logprob: -1.0,
        step_logprob: -1.0,
        scores: Some(vec![score]),
        extensible: true,
        ..Grown::default()
    })
}

/// The same, at the end of a trajectory with this answer.
fn end(word: u32, score: f64, answer: &str) -> Outcome {
    match step(word, score) {
        Outcome::Grown(grown) => Outcome::Grown(Grown {
            text: format!("The answer is \\boxed{{{answer}}}."),
            complete: true,
            extensible: false,
            ..grown
        }),
        Outcome::Abandoned => Outcome::Abandoned,
    }
}

/// The same, of so many tokens.
fn long(tokens: u32, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Grown(grown) => Outcome::Grown(Grown { tokens, ..grown }),
        Outcome::Abandoned => Outcome::Abandoned,
    }
}

/// Asks until there is work; each piece as (branch, what it was forked from).
fn asked(search: &mut TreeSearch) -> Vec<(u32, Option<u32>)> {
    let grown = |work: &Work| match work {
        Work::Extend(extend) => Some((extend.node.0, extend.fork.map(|node| node.0))),
        Work::Retire(_) => None,
    };
    let mut all = Vec::new();
    loop {
        let works = search.ask(100);
        all.extend(works.iter().filter_map(grown));
        if works.is_empty() {
            return all;
        }
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-12
}

#[test]
fn the_rules_of_selection_are_those_of_the_papers() {
    let mut tree = search(Mcts { select: Select::Uct(1.4), ..settings() });
    let a = tree.nodes.add(ROOT, 0, 0.6);
    let b = tree.nodes.add(ROOT, 1, 0.2);
    for (place, value) in [(a, 0.6), (b, 0.3), (a, 0.4)] {
        tree.nodes.descend(None, place);
        tree.nodes.arrive(place, value);
    }
    // One more is in flight, and counts as a visit of the value 0.
    tree.nodes.descend(None, a);
    let ln = 4f64.ln();
    assert!(close(tree.promise(ROOT, a), 1.0 / 3.0 + 1.4 * (ln / 3.0).sqrt()));
    assert!(close(tree.promise(ROOT, b), 0.3 + 1.4 * ln.sqrt()));
    tree.mcts.select = Select::Puct { init: 1.25, base: 19_652.0 };
    let weight = (19_657.0f64 / 19_652.0).ln() + 1.25;
    assert!(close(tree.promise(ROOT, a), 1.0 / 3.0 + weight * 0.75 * 2.0 / 4.0));
    assert!(close(tree.promise(ROOT, b), 0.3 + weight * 0.25 * 2.0 / 2.0));
}

#[test]
fn visits_that_cost_nothing_do_not_use_up_the_simulations_while_steps_are_in_flight() {
    let mut tree = search(Mcts { in_flight: 2, simulations: 9, ..settings() });
    assert_eq!(asked(&mut tree), [(1, Some(0)), (2, Some(0))]);
    // One is complete at once, and the prompt may have no third child.
    tree.tell(0, end(1, 0.9, "4"));
    assert!(asked(&mut tree).is_empty());
    assert_eq!(tree.begun, 2, "there is nothing to choose it from");
    tree.tell(1, step(2, 0.5));
    assert_eq!(asked(&mut tree)[0], (3, Some(2)));
}

#[test]
fn steps_are_selected_expanded_valued_and_backed_up_in_turn() {
    let mut tree = search(settings());
    // The first simulation is a whole trajectory.
    assert_eq!(asked(&mut tree), [(1, Some(0))]);
    tree.tell(0, step(1, 0.5));
    assert_eq!(asked(&mut tree), [(2, Some(1))]);
    tree.tell(1, end(2, 0.8, "4"));
    let value = |tree: &TreeSearch, place| (tree.nodes.get(place).visits, tree.nodes.get(place).value());
    assert_eq!((value(&tree, ROOT), value(&tree, 1), value(&tree, 2)), ((1, 0.8), (1, 0.8), (1, 0.8)));
    // The prompt may have a second child; from then on UCT decides.
    assert_eq!(asked(&mut tree), [(3, Some(0))]);
    tree.tell(2, step(3, 0.4));
    // 0.8 + sqrt(ln 2) against 0.4 + sqrt(ln 2).
    assert_eq!(asked(&mut tree), [(4, Some(1))]);
    tree.tell(3, step(4, 0.1));
    assert!(value(&tree, 1).0 == 2 && close(value(&tree, 1).1, 0.45));
    // 0.45 + sqrt(ln 3 / 2) = 1.19 against 0.4 + sqrt(ln 3) = 1.45.
    assert_eq!(asked(&mut tree), [(5, Some(3))]);
    tree.tell(4, end(5, 0.9, "5"));
    assert!(close(value(&tree, 3).1, 0.65) && close(value(&tree, ROOT).1, 0.55));
    assert_eq!((value(&tree, 3).0, value(&tree, ROOT).0), (2, 4));
    // 0.45 + sqrt(ln 4 / 2) = 1.28 against 0.65 + the same.
    assert_eq!(asked(&mut tree), [(6, Some(3))]);
    assert_eq!(tree.answer().map(|answer| answer.node), Some(NodeId(5)), "0.9 for 5 against 0.8 for 4");
}

#[test]
fn a_simulation_worth_its_trajectory_goes_on_to_the_end() {
    let mut tree = search(Mcts { whole: true, in_flight: 2, ..settings() });
    assert_eq!(asked(&mut tree), [(1, Some(0)), (2, Some(0))]);
    tree.tell(1, step(2, 0.9));
    assert_eq!(asked(&mut tree), [(3, Some(2))], "no second simulation takes its place");
    assert_eq!((tree.nodes.get(ROOT).pending, tree.nodes.get(ROOT).visits), (2, 0));
    tree.tell(2, end(3, 0.25, "4"));
    assert_eq!((tree.nodes.get(ROOT).pending, tree.nodes.get(ROOT).visits), (1, 1));
    assert_eq!(tree.nodes.get(1).value(), 0.25, "not the score of the step");
}

#[test]
fn what_is_in_flight_is_bounded_counts_as_nothing_and_is_undone() {
    let mut tree = search(Mcts { in_flight: 3, width: 5, ..settings() });
    assert_eq!(asked(&mut tree).len(), 3);
    assert_eq!(tree.nodes.get(ROOT).pending, 3);
    tree.tell(1, Outcome::Abandoned);
    assert_eq!((tree.nodes.get(ROOT).pending, tree.nodes.get(ROOT).visits), (2, 0));
    tree.tell(2, step(1, 0.6));
    assert_eq!(tree.nodes.get(ROOT).value(), 0.3, "0.6 over a visit and one in flight");
    assert_eq!(asked(&mut tree).len(), 2, "what came home or was lost makes room");
}

#[test]
fn equal_steps_are_one_node_and_a_tree_in_which_nothing_is_left_ends_the_search() {
    let mut tree = search(Mcts { simulations: 50, ..settings() });
    asked(&mut tree);
    tree.tell(0, end(7, 0.5, "4"));
    assert_eq!(asked(&mut tree), [(2, Some(0))]);
    tree.tell(1, end(7, 0.5, "4"));
    assert_eq!((tree.nodes.places().len(), tree.nodes.get(1).visits), (2, 2));
    assert!(tree.nodes.get(1).closed && tree.nodes.get(ROOT).closed);
    // Nothing is left to find, so simulations that are left visit nothing more.
    assert!(asked(&mut tree).is_empty() && tree.is_done());
    assert_eq!(tree.candidates().iter().filter(|candidate| candidate.complete).count(), 1, "one vote");
    assert_eq!((tree.begun, tree.nodes.get(ROOT).visits), (2, 2));
    assert_eq!(tree.starved(), None);
}

#[test]
fn an_equal_step_gives_its_branch_back_and_its_simulation_goes_on_from_the_first() {
    let mut tree = search(Mcts { whole: true, ..settings() });
    asked(&mut tree);
    tree.tell(0, step(7, 0.5));
    asked(&mut tree);
    tree.tell(1, end(1, 0.5, "4"));
    assert_eq!(asked(&mut tree), [(3, Some(0))]);
    tree.tell(2, step(7, 0.5));
    assert_eq!(tree.ask(100), [Work::Retire(NodeId(3))]);
    assert_eq!(asked(&mut tree), [(4, Some(1))]);
    assert_eq!((tree.nodes.get(1).pending, tree.nodes.get(ROOT).tried), (1, 2));
}

#[test]
fn progressive_widening_lets_a_node_have_children_as_it_is_visited() {
    let tree = search(Mcts { width: 4, widening: Some((0.5, 1.0)), ..settings() });
    assert_eq!([0.0, 1.0, 3.0, 4.0, 9.0, 100.0].map(|visits| tree.breadth(visits)), [1, 1, 1, 2, 3, 4]);
    let tree = search(Mcts { width: 4, widening: None, ..settings() });
    assert_eq!(tree.breadth(0.0), 4);
}

/// It has no more visits to come, which would widen it.
#[test]
fn a_node_widens_below_children_that_are_all_closed() {
    let mcts = Mcts { width: 2, widening: Some((0.1, 1.0)), whole: false, ..settings() };
    let steps = Steps { most: 1, ..mcts.steps };
    let mut tree = search(Mcts { steps, ..mcts });
    assert_eq!(asked(&mut tree), [(1, Some(0))]);
    // Cut at the last step: nothing can follow, and it is no answer either.
    tree.tell(0, step(1, 0.5));
    assert_eq!(tree.breadth(f64::from(tree.nodes.get(ROOT).visits)), 1);
    assert_eq!(asked(&mut tree), [(2, Some(0))], "though one child is all that its visits allow");
    tree.tell(1, end(2, 0.5, "4"));
    assert_eq!(tree.answer(), Some(Answer { node: NodeId(2), complete: true }));
}

#[test]
fn without_a_verifier_a_step_is_worth_its_rollouts() {
    let mut tree = search(Mcts { scoring: Scoring::Rollouts(2), ..settings() });
    assert_eq!(asked(&mut tree), [(1, Some(0))]);
    tree.tell(0, step(1, f64::NAN));
    assert_eq!(asked(&mut tree), [(2, Some(1)), (3, Some(1))]);
    tree.tell(1, end(2, f64::NAN, "4"));
    assert_eq!(tree.nodes.get(ROOT).pending, 1, "both are waited for");
    tree.tell(2, end(3, f64::NAN, "5"));
    assert_eq!((tree.nodes.get(ROOT).visits, tree.nodes.get(1).value()), (1, 0.5), "4 came first");
    // Another step agrees with the other answer, which leads then.
    assert_eq!(asked(&mut tree), [(4, Some(0))]);
    tree.tell(3, end(4, f64::NAN, "5"));
    assert_eq!([1, 2].map(|place| tree.nodes.get(place).value()), [0.5, 1.0]);
    assert!(close(tree.nodes.get(ROOT).value(), 2.0 / 3.0));
}

#[test]
fn the_answer_is_chosen_as_the_settings_say() {
    let chosen = |choice| {
        let mut tree = search(Mcts { simulations: 3, width: 3, choice, ..settings() });
        for (id, (score, answer)) in [(0.3, "2"), (0.5, "1"), (0.3, "2")].into_iter().enumerate() {
            asked(&mut tree);
            tree.tell(id as u64, end(id as u32, score, answer));
        }
        assert!(asked(&mut tree).is_empty() && tree.is_done());
        tree.answer().map(|answer| answer.node.0)
    };
    assert_eq!([Final::Vote, Final::Best, Final::Value, Final::Visits].map(chosen), [1, 2, 2, 1].map(Some));
}

#[test]
fn a_search_ends_early_once_one_answer_is_far_enough_ahead() {
    let after = |enough: Option<Enough>, told: &[Outcome]| {
        let mut tree = search(Mcts { width: 8, whole: true, enough, ..settings() });
        for (id, outcome) in told.iter().enumerate() {
            assert!(!tree.is_done(), "before outcome {id}");
            asked(&mut tree);
            tree.tell(id as WorkId, outcome.clone());
        }
        let open = !asked(&mut tree).is_empty();
        assert_eq!(open, !tree.is_done());
        (tree.is_done(), tree.answer().map(|answer| answer.node.0))
    };
    let enough = |after, share, score| Some(Enough { after, share, score });
    // 4 has 1.7 of 2.0 and a best score of 0.9.
    let told = [end(1, 0.8, "4"), end(2, 0.3, "5"), end(3, 0.9, "4")];
    assert_eq!(after(enough(3, 0.85, 0.9), &told), (true, Some(3)));
    for (more, why) in [
        (enough(4, 0.85, 0.9), "fewer simulations than that have come home"),
        (enough(3, 0.86, 0.9), "its share is smaller"),
        (enough(3, 0.85, 0.91), "its score is lower"),
        (None, "nobody asked for it"),
    ] {
        assert_eq!(after(more, &told), (false, Some(3)), "{why}");
    }
    // As soon as it can be: the first two are 0.8 of 1.1.
    assert_eq!(after(enough(2, 0.7, 0.8), &told[..2]), (true, Some(1)));
    // Trajectories without an answer have a share as well.
    let silent = Grown {
        text: "so".to_owned(),
        complete: true,
        scores: Some(vec![0.8]),
        tokens: 2,
        ids: vec![9],
        ..Grown::default()
    };
    assert!(!after(enough(2, 0.6, 0.8), &[end(1, 0.8, "4"), Outcome::Grown(silent)]).0);
}

/// The same outcome at another likelihood: of the trajectory, and of its step.
fn likely(mean_logprob: f64, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Grown(grown) => Outcome::Grown(Grown { mean_logprob, step_logprob: mean_logprob, ..grown }),
        Outcome::Abandoned => Outcome::Abandoned,
    }
}

#[test]
fn likelihood_counts_in_the_vote_and_in_what_is_enough() {
    let after_two = |likelihood, enough| {
        let mut tree = search(Mcts { width: 8, likelihood, enough, ..settings() });
        asked(&mut tree);
        tree.tell(0, likely(-1.0, end(1, 0.6, "1")));
        asked(&mut tree);
        // Of two tokens each: e^-2 and e^-0.2.
        tree.tell(1, likely(-0.1, end(2, 0.5, "2")));
        (!asked(&mut tree).is_empty(), tree.answer().map_or(0, |answer| answer.node.0))
    };
    // 0.6 against 0.5; 0.6 * e^-1.8 = 0.099 against 0.5.
    assert_eq!([after_two(0.0, None), after_two(1.0, None)], [(true, 1), (true, 2)]);
    // 0.501 against 0.5, and 0.42.
    assert_eq!([after_two(0.1, None), after_two(0.2, None)], [(true, 1), (true, 2)]);
    // A share of 0.545 and of 0.834; the score that is asked for is the verifier's own.
    let enough = |score| Some(Enough { after: 2, share: 0.8, score });
    assert_eq!([0.0, 1.0].map(|power| after_two(power, enough(0.5))), [(true, 1), (false, 2)]);
    assert!(after_two(1.0, enough(0.51)).0);
}

#[test]
fn a_step_s_prior_is_its_mean_probability_by_token() {
    let puct = Select::Puct { init: 1.25, base: 19_652.0 };
    let mut tree = search(Mcts { select: puct, ..settings() });
    asked(&mut tree);
    tree.tell(0, likely(-2.0, end(1, 0.5, "4")));
    asked(&mut tree);
    tree.tell(1, likely(-0.5, step(2, 0.5)));
    let (rare, common) = ((-2f64).exp(), (-0.5f64).exp());
    assert!(close(tree.nodes.get(1).prior, rare) && close(tree.nodes.get(2).prior, common));
    let weight = (19_655.0f64 / 19_652.0).ln() + 1.25;
    let promise = |prior: f64| 0.5 + weight * prior / (rare + common) * 2f64.sqrt() / 2.0;
    assert!(close(tree.promise(ROOT, 1), promise(rare)));
    assert!(close(tree.promise(ROOT, 2), promise(common)));
}

#[test]
fn a_step_without_a_score_is_worth_nothing_and_the_search_goes_on() {
    let none = |outcome| match outcome {
        Outcome::Grown(grown) => Outcome::Grown(Grown { scores: None, ..grown }),
        Outcome::Abandoned => Outcome::Abandoned,
    };
    let mut tree = search(settings());
    asked(&mut tree);
    tree.tell(0, step(1, 0.9));
    assert_eq!(asked(&mut tree), [(2, Some(1))]);
    tree.tell(1, none(end(2, 0.0, "4")));
    assert_eq!((tree.nodes.get(2).visits, tree.nodes.get(2).value()), (1, 0.0), "not its parent's 0.9");
    assert_eq!(asked(&mut tree), [(3, Some(0))]);
    tree.tell(2, end(3, 0.1, "5"));
    assert_eq!(tree.answer().map(|answer| answer.node), Some(NodeId(3)));
    assert!(!asked(&mut tree).is_empty());
}

#[test]
fn an_early_end_waits_for_the_steps_in_flight_and_begins_no_others() {
    let enough = Some(Enough { after: 1, share: 0.5, score: 0.5 });
    let mut tree = search(Mcts { in_flight: 3, width: 5, whole: true, enough, ..settings() });
    assert_eq!(asked(&mut tree).len(), 3);
    tree.tell(1, end(1, 0.8, "4"));
    assert!(asked(&mut tree).is_empty() && !tree.is_done(), "two steps are in flight");
    tree.tell(0, step(2, 0.9));
    tree.tell(2, end(1, 0.8, "4"));
    assert!(asked(&mut tree).is_empty() && tree.is_done(), "the held step is given up, not gone on with");
    assert_eq!(tree.candidates().len(), 1, "equal trajectories are one still");
    assert_eq!(tree.nodes.get(ROOT).pending, 0);
}

#[test]
fn a_node_without_a_place_for_more_is_passed_over() {
    let mut tree = search(Mcts { steps: Steps { most: 2, tokens: 50, repeats: 0 }, ..settings() });
    asked(&mut tree);
    tree.tell(0, step(1, 0.9));
    // The last step that fits goes to the end of the text, and is cut.
    let works = tree.ask(100);
    assert_eq!(extend(&works[0]).until, Until::End);
    tree.tell(1, step(2, 0.9));
    let other = extend(&tree.ask(100)[0]);
    tree.tell(other.id, step(3, 0.1));
    let next = asked(&mut tree);
    assert!(!next.is_empty() && !tree.is_done(), "others can be expanded still");
    assert!(next.iter().all(|(_, fork)| *fork != Some(2)));
}

#[test]
fn where_no_more_branches_may_be_made_a_parent_does_not_grow_into_its_children() {
    let budget = Budget {
        tokens: 1_000,
        reserve: 0,
        branches: 3,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    let mut tree = TreeSearch::new(settings(), budget, None);
    asked(&mut tree);
    tree.tell(0, step(1, 0.9));
    assert_eq!(asked(&mut tree), [(2, Some(1))]);
    tree.tell(1, step(2, 0.9));
    assert_eq!(asked(&mut tree), [(3, Some(2))]);
    tree.tell(2, step(3, 0.9));
    // Branches 1 and 2 have children; 3 goes on alone.
    assert_eq!(asked(&mut tree), [(3, None)]);
    assert_eq!(tree.starved(), Some(Scarce::Branches));
}

#[test]
fn in_a_small_room_simulations_still_go_on_to_their_end() {
    const ROOM: usize = 4;
    let mut tree = search(Mcts { simulations: 6, width: 8, whole: true, in_flight: 8, ..settings() });
    let (mut alive, mut waiting, mut depths) = (Vec::new(), VecDeque::new(), HashMap::from([(0, 0)]));
    while !tree.is_done() {
        for work in tree.ask(ROOM - alive.len()) {
            match work {
                Work::Retire(node) => alive.retain(|id| *id != node.0),
                Work::Extend(extend) => {
                    let from = extend.fork.map_or(extend.node.0, |node| node.0);
                    depths.insert(extend.node.0, depths[&from] + 1);
                    alive.push(extend.node.0);
                    assert!(alive.len() <= ROOM);
                    waiting.push_back((extend.id, extend.node.0));
                }
            }
        }
        let Some((id, node)) = waiting.pop_front() else { continue };
        if depths[&node] < 3 {
            tree.tell(id, step(node, 0.5));
        } else {
            tree.tell(id, end(node, 0.5, "4"));
            alive.retain(|id| *id != node);
        }
    }
    assert_eq!((tree.nodes.get(ROOT).visits, tree.starved()), (6, None));
    assert!(tree.candidates().iter().filter(|candidate| candidate.complete).count() >= 3);
}

#[test]
fn a_leaf_that_waits_for_its_rollouts_makes_no_way() {
    let mut tree = search(Mcts { scoring: Scoring::Rollouts(2), ..settings() });
    asked(&mut tree);
    tree.tell(0, step(1, f64::NAN));
    asked(&mut tree);
    tree.tell(1, end(2, f64::NAN, "4"));
    tree.tell(2, end(3, f64::NAN, "4"));
    assert_eq!(asked(&mut tree), [(4, Some(0))]);
    tree.tell(3, step(4, f64::NAN));
    assert_eq!(tree.ask(0), [Work::Retire(NodeId(1))], "the one that has its value");
    let forks = |works: Vec<Work>| {
        works.iter().map(extend).map(|work| (work.node.0, work.fork.map(|node| node.0))).collect::<Vec<_>>()
    };
    assert_eq!(forks(tree.ask(1)), [(5, Some(4))], "in the room that was freed");
    assert!(tree.ask(0).is_empty());
    // One that is cut keeps no room, and the other one begins there.
    tree.tell(4, step(5, f64::NAN));
    assert_eq!(tree.ask(0), [Work::Retire(NodeId(5))]);
    assert_eq!((tree.nodes.get(ROOT).visits, tree.nodes.get(ROOT).pending), (1, 1), "one says nothing yet");
    assert_eq!(forks(tree.ask(1)), [(6, Some(4))]);
    tree.tell(5, end(6, f64::NAN, "4"));
    assert_eq!((tree.nodes.get(ROOT).visits, tree.nodes.get(ROOT).pending), (2, 0));
}

#[test]
fn as_many_make_way_as_a_leaf_has_rollouts() {
    let mut tree = search(Mcts { scoring: Scoring::Rollouts(2), width: 4, ..settings() });
    let mut next = 0;
    // Three leaves with their values, and one without.
    for leaf in 0..4 {
        asked(&mut tree);
        tree.tell(next, step(leaf, f64::NAN));
        next += 1;
        if leaf < 3 {
            assert_eq!(asked(&mut tree).len(), 2);
            tree.tell(next, end(8, f64::NAN, "4"));
            tree.tell(next + 1, end(9, f64::NAN, "4"));
            next += 2;
        }
    }
    assert_eq!(tree.ask(0), [Work::Retire(NodeId(1)), Work::Retire(NodeId(4))]);
    assert_eq!(tree.ask(2).len(), 2, "both of its rollouts at once");
}

#[test]
fn every_leaf_gets_its_rollouts_however_early_the_others_landed() {
    let budget = Budget {
        tokens: 40,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    let steps = Steps { tokens: 5, ..settings().steps };
    let mcts = Mcts { scoring: Scoring::Rollouts(2), in_flight: 2, steps, ..settings() };
    let mut tree = TreeSearch::new(mcts, budget, None);
    assert_eq!(asked(&mut tree).len(), 2);
    tree.tell(0, step(1, f64::NAN));
    // 33 tokens are left for two leaves.
    assert_eq!(grants(tree.ask(100)), [8, 8]);
    tree.tell(1, step(2, f64::NAN));
    assert_eq!(grants(tree.ask(100)), [10, 10]);
}

/// Of rollouts that share too few tokens none would come to its end.
#[test]
fn where_tokens_are_short_a_leaf_is_valued_by_rollouts_that_end() {
    let budget = |tokens, branches| Budget {
        tokens,
        reserve: 10,
        branches,
        branch_tokens: 500,
        sample: 20,
        verifier_tokens: None,
    };
    let of = |tokens, branches| {
        let steps = Steps { tokens: 10, ..settings().steps };
        let mcts = Mcts { scoring: Scoring::Rollouts(4), steps, ..settings() };
        let mut tree = TreeSearch::new(mcts, budget(tokens, branches), None);
        assert_eq!(grants(tree.ask(100)), [10]);
        tree.tell(0, long(7, step(1, f64::NAN)));
        tree
    };
    // 83 are left after the step of 7, and a trajectory ends within 33 from there.
    let mut tree = of(100, 100);
    assert_eq!(grants(tree.ask(100)), [33, 33]);
    tree.tell(1, long(20, end(2, f64::NAN, "4")));
    assert!(tree.ask(100).is_empty(), "what the other leaves is waited for");
    tree.tell(2, long(20, end(3, f64::NAN, "4")));
    assert_eq!(grants(tree.ask(100)), [33]);
    tree.tell(3, long(28, end(4, f64::NAN, "5")));
    // With 15 no other would end.
    assert!(asked(&mut tree).is_empty() && tree.is_done());
    assert_eq!((tree.nodes.get(ROOT).visits, tree.starved()), (1, Some(Scarce::Tokens)));
    // What is cut while nothing is complete is brought to its answer, though what it
    // was forked from can be no more.
    let mut tree = of(40, 2);
    assert_eq!(grants(tree.ask(100)), [23]);
    tree.tell(1, long(23, step(2, f64::NAN)));
    let works = tree.ask(100);
    let last = extend(works.last().expect("the reserve is spent"));
    assert_eq!((last.node, last.fork, last.max_tokens), (NodeId(2), None, 10));
    tree.tell(2, end(3, f64::NAN, "4"));
    assert!(asked(&mut tree).is_empty() && tree.is_done());
    assert_eq!(tree.answer(), Some(Answer { node: NodeId(2), complete: true }));
    // It makes way for what needs its room, and for whatever comes to an answer.
    let cut_one = || {
        let mut tree = of(200, 100);
        assert_eq!(tree.ask(2).len(), 2);
        tree.tell(1, long(45, step(2, f64::NAN)));
        tree
    };
    let mut tree = cut_one();
    tree.tell(2, long(45, step(3, f64::NAN)));
    assert_eq!(tree.ask(0), [2, 3].map(|node| Work::Retire(NodeId(node))));
    let mut tree = cut_one();
    tree.tell(2, long(20, end(3, f64::NAN, "4")));
    assert_eq!(tree.ask(100), [Work::Retire(NodeId(2))]);
}

/// What one simulation is granted to its end is nothing to the others, till it lands.
#[test]
fn a_last_step_leaves_the_others_theirs() {
    let budget = Budget {
        tokens: 100,
        reserve: 0,
        branches: 100,
        branch_tokens: 500,
        sample: 10,
        verifier_tokens: None,
    };
    let steps = Steps { most: 2, tokens: 8, repeats: 0 };
    let mcts = Mcts { whole: true, width: 8, in_flight: 2, steps, ..settings() };
    let mut tree = TreeSearch::new(mcts, budget, None);
    assert_eq!(grants(tree.ask(100)), [8, 8]);
    tree.tell(0, long(8, step(1, 0.5)));
    assert_eq!(grants(tree.ask(100)), [42], "half of the 84 that are left");
    tree.tell(1, long(8, step(2, 0.5)));
    assert_eq!(grants(tree.ask(100)), [21]);
    // Where less than a step is left, what is in flight is waited for.
    let mut tree = TreeSearch::new(mcts, Budget { tokens: 32, ..budget }, None);
    assert_eq!(grants(tree.ask(100)), [8, 8]);
    tree.tell(0, long(8, step(1, 0.5)));
    assert_eq!(grants(tree.ask(100)), [12]);
    tree.tell(1, long(8, step(2, 0.5)));
    assert!(tree.ask(100).is_empty());
    tree.tell(2, long(6, end(3, 0.5, "4")));
    assert_eq!(grants(tree.ask(100)), [10]);
}

fn grants(works: Vec<Work>) -> Vec<u32> {
    works.iter().filter(|work| matches!(work, Work::Extend(_))).map(|work| extend(work).max_tokens).collect()
}

#[test]
fn a_search_that_came_to_its_own_end_was_short_of_nothing() {
    let budget = |tokens, branches| Budget {
        tokens,
        reserve: 0,
        branches,
        branch_tokens: 500,
        sample: 1,
        verifier_tokens: None,
    };
    // What is in flight was granted everything, and leaves most of it.
    let mcts = Mcts { simulations: 3, width: 5, in_flight: 3, ..settings() };
    let mut tree = TreeSearch::new(mcts, budget(60, 100), None);
    assert_eq!(asked(&mut tree).len(), 2, "of 50 and 10 tokens");
    tree.tell(0, end(1, 0.5, "4"));
    assert_eq!(asked(&mut tree).len(), 1);
    tree.tell(1, end(2, 0.5, "4"));
    tree.tell(2, end(3, 0.5, "4"));
    assert!(asked(&mut tree).is_empty() && tree.is_done());
    assert_eq!(tree.starved(), None);
    // It had its answer when it had made all its branches.
    let enough = Some(Enough { after: 1, share: 0.5, score: 0.5 });
    let mut tree = TreeSearch::new(Mcts { enough, ..settings() }, budget(60, 1), None);
    asked(&mut tree);
    tree.tell(0, end(1, 0.5, "4"));
    assert!(asked(&mut tree).is_empty() && tree.is_done());
    assert_eq!(tree.starved(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_visit_is_left_in_flight(
        mcts in mcts(),
        budget in budget(),
        room in room(),
        fates in fates(),
    ) {
        let mut driver = Driver::new(Box::new(TreeSearch::new(mcts, budget, None)), budget, room);
        driver.run(&fates)?;
        let tree = &driver.strategy;
        let alive = tree.grove.all(State::Held).chain(tree.grove.all(State::Growing)).count();
        prop_assert_eq!(tree.grove.alive(), alive, "the count is exact");
        for place in tree.nodes.places() {
            let node = tree.nodes.get(place);
            prop_assert_eq!(node.pending, 0, "at {}", place);
            prop_assert!((0.0..1.0 + 1e-9).contains(&node.value()), "{}", node.value());
            let below: u32 = node.children.iter().map(|child| tree.nodes.get(*child).visits).sum();
            prop_assert!(below <= node.visits);
        }
        prop_assert!(tree.begun <= mcts.simulations);
    }
}
