//! How much memory this process holds, as the operating system counts it.

/// Resident memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resident {
    /// Now (`VmRSS`).
    pub now: u64,
    /// The most since the process began (`VmHWM`).
    pub peak: u64,
}

/// This process's resident memory; `None` where there is no `/proc`.
pub(super) fn resident() -> Option<Resident> {
    read(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Reads a `/proc/PID/status` (proc_pid_status(5)): its kB are KiB.
fn read(status: &str) -> Option<Resident> {
    let bytes = |name: &str| -> Option<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Resident { now: bytes("VmRSS")?, peak: bytes("VmHWM")? })
}

/// Bytes as people read them.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_figures_are_found_among_the_others() {
        let status =
            "Name:\tespalier\nVmPeak:\t  999 kB\nVmHWM:\t   300 kB\nVmRSS:\t   200 kB\nThreads:\t3\n";
        assert_eq!(read(status), Some(Resident { now: 200 << 10, peak: 300 << 10 }));
        assert_eq!(read("VmRSS:\t200 kB\n"), None);
        assert_eq!(read("VmRSS:\tmuch kB\nVmHWM:\t1 kB\n"), None);
        assert_eq!(mib(3 << 19), 1.5);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_taken_and_touched_is_counted() {
        let before = resident().expect("a system with /proc");
        let taken = vec![1u8; 64 << 20];
        let after = resident().expect("a system with /proc");
        assert!(after.peak >= after.now && after.peak >= before.peak);
        // Other tests give memory back meanwhile, so half of it is enough.
        assert!(after.peak >= 32 << 20, "{after:?}");
        assert_eq!(taken.iter().map(|byte| usize::from(*byte)).sum::<usize>(), taken.len());
    }
}
