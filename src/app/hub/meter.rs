//! How far a download is: a bar on a terminal, log lines elsewhere.

use hf_hub::api::tokio::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shows how far a file is: a bar on a terminal, lines elsewhere.
#[derive(Clone)]
pub(super) struct Meter {
    id: String,
    file: String,
    bar: Option<ProgressBar>,
    size: u64,
    /// Bytes of this file so far, shared by the file's chunks.
    done: Arc<AtomicU64>,
    moved: Arc<AtomicU64>,
}

impl Meter {
    pub(super) fn new(id: &str, moved: Arc<AtomicU64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0));
        Self { id: id.to_owned(), file: String::new(), bar, size: 0, done: Arc::default(), moved }
    }
}

impl Progress for Meter {
    async fn init(&mut self, size: usize, file: &str) {
        (self.size, self.file) = (size as u64, file.to_owned());
        if let Some(bar) = &self.bar {
            let template =
                "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_length(self.size);
            bar.set_message(self.file.clone());
        }
    }

    async fn update(&mut self, size: usize) {
        let size = size as u64;
        self.moved.fetch_add(size, Ordering::Relaxed);
        let before = self.done.fetch_add(size, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(size);
            return;
        }
        let tenth = |bytes: u64| bytes * 10 / self.size.max(1);
        if tenth(before + size) > tenth(before) {
            let (percent, bytes) = (tenth(before + size) * 10, self.size);
            tracing::info!(model = self.id, file = self.file, percent, bytes, "downloading");
        }
    }

    async fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
