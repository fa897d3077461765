//! The integration tests, one module per concern.

#![expect(clippy::panic, reason = "a test fails by panicking")]

mod adapters; // LoRA adapters against PEFT
mod adaptive; // what an adaptive vote saves
mod architecture; // the module table, the fences and the shape of every source file
mod bad_input; // requests that must be refused, by hand and by chance
mod binary; // the real binary as a child process
mod broken; // the real engines, breaking in the middle
mod browser; // the page, in a Chromium
mod budget; // token bounds, and the independent counts of what was spent
mod bytes; // requests as bytes, and what comes back
mod chat; // what a good request gets, whole and streamed
mod disconnect; // clients that leave
mod engine; // the tree engine against transformers, and its promises about sharing
mod eval; // the harness: suites, arms and what it writes
mod families; // every model family and configuration key against transformers
mod faults; // engines that fail, and deadlines
mod gguf; // GGUF files and quantised weights
mod hub; // models of the Hugging Face hub, from one that a test plays
mod models; // checkpoints that cannot be served, and the binary that refuses them
mod modes; // every mode and variant on the bundled models
mod openapi; // the API's document, and the pages for people
mod operating; // loading, limits, drain, logs and metrics
mod reproducible; // equal seeds, whatever else is going on
mod sampling; // the sampling fields of requests and of a model's own defaults
mod sdk; // the official clients of OpenAI against a server
mod settings; // what a person sets, through the real binary, and mistakes in it
mod support; // servers and clients for the modules above
mod verifiers; // the modes with a judge, and without any verifier
