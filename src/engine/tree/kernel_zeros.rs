//! Memory of zeros that may be refused.
//!
//! A pool of KV is reserved as a whole and given by the operating system page by page
//! as it is written. The library has the two halves of that apart: `vec![0.0; n]`
//! touches no page and ends the process where there is no room; what can be refused
//! is uninitialised, and writing zeros to it takes all of it.

#![expect(unsafe_code, reason = "no other allocation is both zeroed by the system and allowed to fail")]

use std::alloc::{Layout, alloc_zeroed};

/// So many zeros, of which no page is taken before it is written; `None` where the
/// system refuses them.
pub(super) fn zeros(count: usize) -> Option<Vec<f32>> {
    if count == 0 {
        return Some(Vec::new());
    }
    let layout = Layout::array::<f32>(count).ok()?;
    // SAFETY: the layout is not empty, for the count is not zero.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    // SAFETY: the global allocator has given this for the layout of just such a vector,
    // and numbers whose bytes are all zero are zeros.
    Some(unsafe { Vec::from_raw_parts(start.cast(), count, count) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn memory_that_there_is_comes_as_zeros_and_other_is_refused() {
        for count in [0, 1, 4099] {
            let mut numbers = zeros(count).expect("little memory");
            assert_eq!(numbers, vec![0.0; count]);
            numbers.push(1.0);
        }
        // More than any address space, by the layout and by the allocator. A compiler may
        // drop an allocation that nobody looks at.
        assert!(black_box(zeros(usize::MAX / 2)).is_none());
        #[cfg(not(miri))]
        assert!(black_box(zeros(1 << 60)).is_none());
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn memory_that_was_never_written_is_not_taken() {
        // Pages of 4 KiB or more that are resident in this process, tests beside this
        // one included.
        let resident = || -> usize {
            let line = std::fs::read_to_string("/proc/self/statm").expect("the system says so");
            line.split(' ').nth(1).expect("a second number").parse().expect("a number")
        };
        let before = resident();
        let numbers = black_box(zeros(1 << 28)).expect("a GiB of addresses");
        assert!(resident() < before + (1 << 16), "half of it at most");
        assert_eq!(numbers[numbers.len() - 1], 0.0);
    }
}
