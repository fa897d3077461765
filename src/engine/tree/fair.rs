//! Who gets how many of a step's rows: pure arithmetic, no engine.
//!
//! The unit of fairness is the request. Rows are shared out max-min fairly by
//! weight (Bertsekas and Gallager, "Data Networks", 6.5.2): nobody gets more
//! while somebody who got less still wants some. Who is behind comes first
//! where rows cannot be split, by the virtual time of weighted fair queueing.
//!
//! A fair share of a long step is still a long step: a chat that asks for one
//! row waits for the 256 of a search beside it. So where requests compete, the
//! step is kept short enough that the one that asks for least is at most
//! [`SLOWDOWN`] times slower than it would be if all asked for as little. What a
//! row and a step cost is learnt from the steps themselves ([`super::costs`]).
//! Durations decide only how work is cut into steps, never what a branch says.

use super::costs::Cost;

/// How much longer a step may get through those that ask for more. A chat is to
/// keep 0.4 of its pace: what this leaves is for what is not foreseen, above all the
/// KV of a search's many branches, which no cache holds.
const SLOWDOWN: f64 = 1.6;

/// Virtual time of one row at weight 1; weights divide it without remainder.
const TICK: u64 = 16;

/// Virtual time by which a request may be ahead of the level: two rows of the
/// lowest class, by as much as start-time fair queueing (Goyal, Vin and Cheng,
/// 1996) lets two flows be apart that both have work.
const MOST_AHEAD: u64 = ticks(2, 1);

/// What one request could compute in the next step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    /// Its share against others, at least 1.
    pub weight: u32,
    /// Rows that it could use, at least 1.
    pub rows: usize,
    /// Branches that would draw a token from them, or nearly so: those that are one
    /// row away from their logits.
    pub draws: usize,
    /// Its virtual time.
    pub served: u64,
}

/// The virtual time that `rows` take at a weight.
pub(super) const fn ticks(rows: usize, weight: u32) -> u64 {
    let weight = if weight == 0 { 1 } else { weight };
    rows as u64 * TICK / weight as u64
}

/// The virtual time with which a request enters a step, of which `level` is that of
/// the least served one that was refused rows in the last step, or where nobody was,
/// of the most served one.
pub(super) fn enter(served: u64, level: u64) -> u64 {
    // Nothing is owed for a time in which nobody was refused rows that it asked for:
    // who was idle, has just come, or got all that it wanted starts level with those
    // that were refused some. And nothing is to be paid back for one in which it had
    // what others did not want, or what could not be split.
    served.clamp(level, level + MOST_AHEAD)
}

/// The virtual times of those that made `claims`, and the level, after a step in which
/// they were `granted` rows and `given` as many of them as there was memory for.
pub(super) fn charge(claims: &[Claim], granted: &[usize], given: &[usize], level: u64) -> (Vec<u64>, u64) {
    let charged = |(claim, &given): (&Claim, &usize)| claim.served + ticks(given, claim.weight);
    let served: Vec<u64> = claims.iter().zip(given).map(charged).collect();
    // Who has no memory for the rows that it might have is refused none.
    let refused = |i: &usize| given[*i] == granted[*i] && given[*i] < claims[*i].rows;
    let least_refused = (0..claims.len()).filter(refused).map(|i| served[i]).min();
    let level = level.max(least_refused.or(served.iter().copied().max()).unwrap_or(level));
    (served, level)
}

/// Rows that the next step should hold at most.
pub(super) fn room(claims: &[Claim], cost: Cost, most: usize) -> usize {
    let least = claims.iter().map(|claim| claim.rows as f64 / f64::from(claim.weight)).min_by(f64::total_cmp);
    let Some(least) = least.filter(|_| claims.len() > 1) else { return most };
    let row = |claim: &Claim| cost.row + cost.draw * claim.draws as f64 / claim.rows as f64;
    // The step in which everybody asks for as little as the one that asks least.
    let small = claims.iter().map(|claim| {
        let own = (least * f64::from(claim.weight)).clamp(1.0, claim.rows as f64);
        own * row(claim)
    });
    let allowed = SLOWDOWN * (cost.step + small.sum::<f64>());
    let fits = |room: usize| {
        let granted = allot(claims, room);
        let rows = granted.iter().zip(claims).map(|(&granted, claim)| granted as f64 * row(claim));
        cost.step + rows.sum::<f64>() <= allowed
    };
    if fits(most) {
        return most;
    }
    // More rows never take less time. Everybody is in the step, whatever it takes.
    let (mut room, mut over) = (claims.len().min(most), most);
    while room + 1 < over {
        let middle = room.midpoint(over);
        if fits(middle) { room = middle } else { over = middle }
    }
    room
}

/// Shares `room` rows out: as many per claim, in the order of `claims`.
pub(super) fn allot(claims: &[Claim], room: usize) -> Vec<usize> {
    let mut granted = vec![0; claims.len()];
    let mut left = room;
    // Who is behind gets a row first, so that everybody is in every step that
    // has rows enough.
    let mut behind: Vec<usize> = (0..claims.len()).collect();
    behind.sort_by_key(|&i| claims[i].served);
    for &i in behind.iter().take(room) {
        granted[i] = 1;
        left -= 1;
    }
    // Those that want least per weight are filled first; what they leave is
    // shared by the others.
    let mut order: Vec<usize> = (0..claims.len()).filter(|&i| granted[i] == 1).collect();
    order.sort_by(|&a, &b| {
        let wanted = |i: usize| (claims[i].rows - 1) as u64;
        let by_weight =
            (wanted(a) * u64::from(claims[b].weight)).cmp(&(wanted(b) * u64::from(claims[a].weight)));
        // The last one gets what the divisions have left over.
        by_weight.then(claims[b].served.cmp(&claims[a].served))
    });
    let mut weights: u64 = order.iter().map(|&i| u64::from(claims[i].weight)).sum();
    for &i in &order {
        let share = (left as u64 * u64::from(claims[i].weight) / weights.max(1)) as usize;
        let more = share.min(claims[i].rows - 1);
        granted[i] += more;
        left -= more;
        weights -= u64::from(claims[i].weight);
    }
    // Remainders of the divisions, again to those that are behind.
    while left > 0 {
        let mut given = false;
        for &i in &behind {
            if left > 0 && granted[i] < claims[i].rows {
                granted[i] += 1;
                left -= 1;
                given = true;
            }
        }
        if !given {
            break;
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(weight: u32, rows: usize, served: u64) -> Claim {
        Claim { weight, rows, draws: 0, served }
    }

    proptest! {
        #[test]
        fn shares_are_max_min_fair(
            wants in proptest::collection::vec((1..5u32, 1..300usize, 0..100u64), 1..20),
            room in 1..600usize
        ) {
            let claims: Vec<Claim> = wants.iter().map(|&(w, r, s)| claim(w, r, s)).collect();
            let granted = allot(&claims, room);
            let all: usize = claims.iter().map(|c| c.rows).sum();
            prop_assert_eq!(granted.iter().sum::<usize>(), room.min(all), "no row is wasted or made up");
            for (a, &ga) in claims.iter().zip(&granted) {
                prop_assert!(ga <= a.rows);
                prop_assert!(room < claims.len() || ga >= 1, "everybody is in a step that has rows enough");
                for (b, &gb) in claims.iter().zip(&granted) {
                    // Nobody has more than its weight's part beside one who
                    // wants more, but for a row that cannot be split.
                    let even = (ga as f64 - 1.0) / f64::from(a.weight) <= gb as f64 / f64::from(b.weight) + 1.0;
                    prop_assert!(gb == b.rows || even || ga == 1, "{claims:?} {granted:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_enters_a_step_far_from_the_level() {
        for (served, enters) in [(0, 500), (499, 500), (510, 510), (532, 532), (10_000, 532)] {
            assert_eq!(enter(served, 500), enters);
        }
    }

    #[test]
    fn the_level_is_that_of_the_least_served_that_was_refused_rows() {
        // Of weight 1 a row is 16 ticks, of weight 4 it is 4.
        let claims = [claim(1, 3, 100), claim(4, 9, 104), claim(1, 9, 96)];
        for (granted, given, served, level) in [
            // The first got all that it asked for.
            ([3, 4, 1], [3, 4, 1], [148, 120, 112], 112),
            // And here the others too, or they had no memory for it.
            ([3, 9, 9], [3, 9, 9], [148, 140, 240], 240),
            ([3, 4, 4], [3, 2, 0], [148, 112, 96], 148),
            ([2, 4, 4], [2, 2, 0], [132, 112, 96], 132),
        ] {
            assert_eq!(charge(&claims, &granted, &given, 90), (served.to_vec(), level));
        }
        assert_eq!(charge(&claims, &[0, 1, 0], &[0, 1, 0], 104).1, 104, "it never goes back");
        assert_eq!(charge(&[], &[], &[], 7), (Vec::new(), 7));
    }

    #[test]
    fn those_that_are_behind_come_first_where_rows_are_few() {
        let claims = [claim(1, 9, 30), claim(1, 9, 10), claim(1, 9, 20)];
        assert_eq!(allot(&claims, 1), [0, 1, 0]);
        assert_eq!(allot(&claims, 2), [0, 1, 1]);
        assert_eq!(allot(&claims, 4), [1, 2, 1]);
    }

    #[test]
    fn a_step_is_short_only_where_somebody_asks_for_little() {
        let cost = |step| Cost { step, row: 1.0, draw: 0.0 };
        let search = claim(1, 256, 0);
        assert_eq!(room(&[search], cost(10.0), 512), 512);
        assert_eq!(room(&[search, search], cost(10.0), 512), 512);
        // Two rows are the small step, which takes 12: 1.6 times that is 10 and nine rows.
        assert_eq!(room(&[search, claim(1, 1, 0)], cost(10.0), 512), 9);
        // Where a step costs much and a row little, all of them fit.
        assert_eq!(room(&[search, claim(1, 1, 0)], cost(1e4), 512), 512);
        assert_eq!(room(&[claim(1, 1, 0); 40], cost(0.0), 8), 8);
    }

    #[test]
    fn rows_that_are_drawn_from_count_for_more_than_those_of_a_prompt() {
        let cost = Cost { step: 12.0, row: 1.0, draw: 3.0 };
        let drawing = |rows| Claim { draws: rows, ..claim(1, rows, 0) };
        // Beside a chat, whose row takes 4: with a row of a search 12 + 8, 1.6 times
        // that is 12 and five rows of 4.
        assert_eq!(room(&[drawing(256), drawing(1)], cost, 512), 5);
        // With a row of a prompt 12 + 5: 1.6 times that is 12 + 4 and eleven of 1.
        assert_eq!(room(&[claim(1, 256, 0), drawing(1)], cost, 512), 1 + 11);
        // Of branches that say the same a row is drawn from several times.
        let twins = Claim { draws: 30, ..claim(1, 10, 0) };
        assert_eq!(room(&[twins, drawing(1)], cost, 512), 1 + 2);
        // What is shared out first may be what is dear: of a small search a row takes
        // 31, of a prompt 1, and 1.6 (50 + 31 + 31 + 1) is not enough for four of 31.
        let cost = Cost { step: 50.0, row: 1.0, draw: 30.0 };
        let mixed = [drawing(1), drawing(10), claim(1, 4000, 0)];
        assert_eq!(allot(&mixed, room(&mixed, cost, 512)), [1, 3, 4]);
    }
}
