//! The tree's statistics: visits, values, and visits in flight, which count with
//! the value 0 and are taken back exactly.

use super::super::grove::Index;

/// A node's place in the tree.
pub(super) type Place = usize;

/// The prompt.
pub(super) const ROOT: Place = 0;

/// A node: a step, or the prompt.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) parent: Option<Place>,
    pub(super) children: Vec<Place>,
    /// Its step; the prompt has none.
    pub(super) twig: Option<Index>,
    /// Likelihood of its step, among its siblings.
    pub(super) prior: f64,
    /// Simulations that went through it and have come home.
    pub(super) visits: u32,
    /// Those that have not.
    pub(super) pending: u32,
    /// Steps sampled below it, equal ones included.
    pub(super) tried: u32,
    /// How many of those landed in a row without being new.
    pub(super) repeated: u32,
    /// Sum of the values that came home.
    total: f64,
    /// The value of a complete trajectory.
    pub(super) worth: f64,
    /// Nothing is left to do below it.
    pub(super) closed: bool,
    /// What its own rollouts, or it itself, answered.
    pub(super) answers: Vec<Option<String>>,
    /// Rollouts of it that are under way.
    pub(super) rolling: u32,
}

impl Node {
    /// Mean value, visits in flight counted as 0.
    pub(super) fn value(&self) -> f64 {
        self.total / f64::from((self.visits + self.pending).max(1))
    }
}

/// All nodes, parents before their children.
#[derive(Debug)]
pub(super) struct Nodes(Vec<Node>);

impl Nodes {
    pub(super) fn new() -> Self {
        Self(vec![Node::default()])
    }

    pub(super) fn get(&self, place: Place) -> &Node {
        &self.0[place]
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut Node {
        &mut self.0[place]
    }

    pub(super) fn places(&self) -> std::ops::Range<Place> {
        0..self.0.len()
    }

    pub(super) fn add(&mut self, parent: Place, twig: Index, prior: f64) -> Place {
        let place = self.0.len();
        let prior = if prior.is_finite() { prior } else { 0.0 };
        self.0.push(Node { parent: Some(parent), twig: Some(twig), prior, ..Node::default() });
        self.0[parent].children.push(place);
        place
    }

    /// Applies `change` to a node and to all above it, up to and without `top`.
    fn upwards(&mut self, place: Place, top: Option<Place>, change: impl Fn(&mut Node)) {
        let mut at = Some(place);
        while let Some(place) = at.filter(|place| Some(*place) != top) {
            change(&mut self.0[place]);
            at = self.0[place].parent;
        }
    }

    /// A simulation that stands on `from`, or begins where that is none, goes on
    /// to `to` below it.
    pub(super) fn descend(&mut self, from: Option<Place>, to: Place) {
        self.upwards(to, from, |node| node.pending += 1);
    }

    /// A simulation that stands on `place` comes home.
    pub(super) fn arrive(&mut self, place: Place, value: f64) {
        self.upwards(place, None, |node| {
            node.pending -= 1;
            node.visits += 1;
            node.total += value;
        });
    }

    /// A simulation that stands on `place` comes to nothing.
    pub(super) fn abandon(&mut self, place: Place) {
        self.upwards(place, None, |node| node.pending -= 1);
    }

    /// Sets every value to the share of the answers at and below the node that
    /// are the leading one.
    pub(super) fn revalue(&mut self, leading: Option<&str>) {
        let mut counts = vec![(0u32, 0u32); self.0.len()];
        for place in self.places().rev() {
            let node = &self.0[place];
            let own = node.answers.iter().filter(|answer| leading.is_some() && answer.as_deref() == leading);
            counts[place].0 += own.count() as u32;
            counts[place].1 += node.answers.len() as u32;
            let (hits, all) = counts[place];
            if let Some(parent) = node.parent {
                counts[parent].0 += hits;
                counts[parent].1 += all;
            }
            let node = &mut self.0[place];
            node.total = f64::from(node.visits) * f64::from(hits) / f64::from(all.max(1));
            node.worth = f64::from(hits) / f64::from(all.max(1));
        }
    }

    /// The child with the greatest key, the first among equals.
    pub(super) fn best_child(&self, place: Place, key: impl Fn(&Node) -> f64) -> Option<Place> {
        let mut best: Option<(Place, f64)> = None;
        for &child in &self.0[place].children {
            let key = key(&self.0[child]);
            if best.is_none_or(|(_, known)| key > known) {
                best = Some((child, key));
            }
        }
        best.map(|(child, _)| child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_in_flight_count_as_nothing_and_are_taken_back_exactly() {
        let mut nodes = Nodes::new();
        let a = nodes.add(ROOT, 0, 0.5);
        let b = nodes.add(a, 1, f64::NAN);
        nodes.descend(None, a);
        nodes.descend(Some(a), b);
        nodes.arrive(b, 0.8);
        assert_eq!((nodes.get(ROOT).visits, nodes.get(ROOT).value(), nodes.get(b).value()), (1, 0.8, 0.8));
        nodes.descend(None, b);
        assert_eq!((nodes.get(ROOT).value(), nodes.get(b).value(), nodes.get(b).pending), (0.4, 0.4, 1));
        nodes.abandon(b);
        assert_eq!((nodes.get(ROOT).value(), nodes.get(a).pending, nodes.get(b).visits), (0.8, 0, 1));
        assert_eq!(nodes.get(b).prior, 0.0);
    }

    #[test]
    fn values_follow_the_leading_answer() {
        let mut nodes = Nodes::new();
        let a = nodes.add(ROOT, 0, 1.0);
        let b = nodes.add(ROOT, 1, 1.0);
        for (place, answers) in [(a, ["4", "4"]), (b, ["5", "4"])] {
            nodes.get_mut(place).answers = answers.map(|answer| Some(answer.to_owned())).to_vec();
            nodes.descend(None, place);
            nodes.arrive(place, 0.0);
        }
        nodes.revalue(Some("4"));
        assert_eq!([ROOT, a, b].map(|place| nodes.get(place).value()), [0.75, 1.0, 0.5]);
        nodes.revalue(Some("5"));
        assert_eq!([ROOT, a, b].map(|place| nodes.get(place).value()), [0.25, 0.0, 0.5]);
        nodes.revalue(None);
        assert_eq!(nodes.get(ROOT).value(), 0.0);
    }
}
