//! Which rows attend together.

use super::super::kernel_attention::TILE;
use super::super::store::BLOCK;
use super::Row;

/// Cuts rows into tiles of neighbours that share leading blocks.
pub(super) fn tiles(rows: &[Row<'_>], grouped: bool, tiles: &mut Vec<(usize, usize)>) {
    tiles.clear();
    let full = |row: &Row<'_>| (row.position + 1) / BLOCK;
    for (i, row) in rows.iter().enumerate() {
        let common = |size: usize, shared: usize| {
            let before = &rows[i - size].blocks[..shared.min(full(row))];
            before.iter().zip(row.blocks).take_while(|(a, b)| a == b).count()
        };
        match tiles.last_mut() {
            // A row that would cost the others most of what they share begins
            // a tile of its own.
            Some((size, shared)) if grouped && *size < TILE && 2 * common(*size, *shared) >= *shared => {
                *shared = common(*size, *shared);
                *size += 1;
            }
            _ => tiles.push((1, full(row))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(rows: &[(usize, &[u32])], grouped: bool) -> Vec<(usize, usize)> {
        let row = |&(position, blocks)| Row { token: 0, position, blocks, logits: false };
        let mut cut = vec![(9, 9)];
        tiles(&rows.iter().map(row).collect::<Vec<_>>(), grouped, &mut cut);
        cut
    }

    #[test]
    fn neighbours_that_share_most_of_their_full_blocks_are_a_tile() {
        let (a, b, c) = ([0, 1, 2, 3, 10], [0, 1, 2, 3, 11], [0, 7, 8, 9]);
        let rows: [(usize, &[u32]); 3] = [(70, &a), (66, &b), (60, &c)];
        assert_eq!(cut(&rows, true), [(2, 4), (1, 3)], "the last one would leave them a quarter");
        assert_eq!(cut(&rows, false), [(1, 4), (1, 4), (1, 3)]);
        // A block that one of them has not filled is not shared.
        assert_eq!(cut(&[(70, &a), (62, &a)], true), [(2, 3)]);
        assert_eq!(cut(&[], true), []);
    }

    #[test]
    fn a_tile_has_no_more_rows_than_a_kernel_takes() {
        let blocks: &[u32] = &[0, 1];
        let rows = vec![(20, blocks); 2 * TILE + 3];
        assert_eq!(cut(&rows, true), [(TILE, 1), (TILE, 1), (3, 1)]);
    }
}
