//! In place of the tests against that library; others stand beside the kernel.
