//! Who gets blocks, over the model of [`super::super::tests`].

use super::super::tests::{prompt, rig, said};
use crate::engine::{End, Open};

#[test]
fn a_wide_search_stays_wide_where_what_its_branches_share_is_most_of_the_pool() {
    let (shared, each) = (2000, 160);
    let mut rig = rig(150);
    let start = prompt(1, shared);
    rig.settled(100, Open::new(start.clone(), shared + each, 8));
    for child in 101..109 {
        rig.fork(100, child);
        rig.decode(child, each as u32);
    }
    let before = rig.passes.lock().expect("not poisoned").len();
    rig.run();
    let passes = rig.passes.lock().expect("not poisoned").len() - before;
    for child in 101..109 {
        assert_eq!(rig.heard[&child], (said(&start, child, each), Some(Ok(End::Length))));
    }
    let counts = rig.counts(100);
    assert!(counts.preempted > 0, "there is not room for all eight at once");
    // Beside the prompt there is room for two whole branches, and for more that
    // are young.
    assert!(passes <= 8 * each / 2, "{passes} passes, {counts:?}");
}
