//! The integration tests, one module per concern.

#![expect(clippy::panic, reason = "a test fails by panicking")]

mod architecture; // the module table, the fences and the shape of every source file
mod bad_input; // requests that must be refused, by hand and by chance
mod browser; // the page, in a Chromium
mod budget; // token bounds, and the independent counts of what was spent
mod chat; // what a good request gets, whole and streamed
mod disconnect; // clients that leave
mod engine; // the tree engine against transformers, and its promises about sharing
mod faults; // engines that fail, and deadlines
mod models; // checkpoints that cannot be served, and the binary that refuses them
mod openapi; // the API's document, and the pages for people
mod reproducible; // equal seeds, whatever else is going on
mod sdk; // the official clients of OpenAI against a server
mod support; // servers and clients for the modules above
