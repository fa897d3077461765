//! The integration tests, one module per concern.

mod architecture; // the module table, the fences and the shape of every source file
