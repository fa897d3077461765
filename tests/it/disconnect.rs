//! Clients that leave: within one step of the engine nothing of their requests
//! is left, and nobody else notices. And clients that stay and do not read.

use crate::support::{
    PUZZLE, Pace, Served, counter, endless, eventually, serve, serve_scripted, serve_scripted_with, words,
};
use espalier::config::ServeArgs;
use espalier::metrics::Metrics;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;

/// A slow engine that counts the steps it begins with branches of a client that
/// the server knows has left.
struct Watched {
    server: Served,
    pace: Pace,
    late: Arc<AtomicU64>,
}

/// Long enough for a busy machine to run a task in, short enough for a test.
const STEP: Duration = Duration::from_millis(60);

async fn watched() -> Watched {
    let pace = Pace::default();
    let late = Arc::new(AtomicU64::new(0));
    // The metrics exist only once the server does.
    let metrics: Arc<OnceLock<Arc<Metrics>>> = Arc::default();
    let (seen, steps_late, live) = (Arc::clone(&metrics), Arc::clone(&late), Arc::clone(&pace.live));
    let before_step = move |_| {
        let noticed = seen.get().is_some_and(|metrics| metrics.disconnects.get() > 0);
        if noticed && live.load(Ordering::SeqCst) > 0 {
            steps_late.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::sleep(STEP);
        Ok(())
    };
    let server = serve_scripted(pace.script(|_| endless(), before_step)).await;
    assert!(metrics.set(Arc::clone(&server.metrics)).is_ok());
    Watched { server, pace, late }
}

impl Watched {
    fn live(&self) -> usize {
        self.pace.live.load(Ordering::SeqCst)
    }

    fn steps(&self) -> u64 {
        self.pace.steps.load(Ordering::SeqCst)
    }

    /// Starts a request, lets it run for some steps, leaves it, and sees it gone.
    async fn leave(&self, fields: Value, live: usize) {
        let stream = self.server.raw(&self.server.raw_chat(fields.clone())).await;
        eventually("every branch runs", || self.live() == live).await;
        let steps = self.steps();
        eventually("the branches have grown", || self.steps() > steps + 2).await;
        assert_eq!(self.server.metrics.disconnects.get(), 0, "nobody has left yet");
        drop(stream);
        eventually("the server notices", || self.server.metrics.disconnects.get() == 1).await;
        eventually("every branch is gone", || self.live() == 0).await;
        // The step that was being taken when the client left may have begun late.
        let branches = ["", "_kept", "_pruned"].map(|fate| format!("espalier_branches{fate}_total"));
        let text = self.server.get("/metrics").await.text;
        let [made, kept, pruned] = branches.map(|name| counter(&text, &name));
        assert_eq!((made, kept), (pruned, 0), "all of them are given up");
        assert!(made > 0);
        let late = self.late.load(Ordering::SeqCst);
        assert!(late <= 1, "{fields}: {late} steps were taken for a client that had left");
        let steps = self.steps();
        tokio::time::sleep(STEP * 3).await;
        assert_eq!(self.steps(), steps, "the engine rests");
        assert_eq!(self.server.counter("espalier_client_disconnects_total").await, 1);
    }
}

/// A search that begins with all of its branches.
fn wide() -> Value {
    json!({"mode": "self_consistency", "branches": 64, "stop": "fixed", "vote": "count"})
}

#[tokio::test]
async fn leaving_a_stream_ends_every_branch_within_a_step() {
    let watched = watched().await;
    watched.leave(json!({"reasoning": wide(), "stream": true}), 65).await;
}

#[tokio::test]
async fn leaving_before_the_body_ends_every_branch_within_a_step() {
    let watched = watched().await;
    watched.leave(json!({"reasoning": wide()}), 65).await;
}

#[tokio::test]
async fn leaving_several_choices_ends_them_all() {
    let watched = watched().await;
    watched.leave(json!({"reasoning_effort": "low", "n": 3}), 4).await;
}

/// Waits until bytes have come in and reads them.
async fn read(stream: &TcpStream) -> String {
    let mut buffer = vec![0; 1 << 16];
    loop {
        stream.readable().await.expect("readable");
        match stream.try_read(&mut buffer) {
            Ok(n) => return String::from_utf8_lossy(&buffer[..n]).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_to_the_end_is_no_disconnect() {
    let pace = Pace::default();
    let server = serve_scripted(pace.script(|_| words("Yes and no."), |_| Ok(()))).await;
    for stream in [false, true] {
        let reply = server.post(json!({"reasoning_effort": "none", "stream": stream})).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    eventually("every branch is gone", || pace.live.load(Ordering::SeqCst) == 0).await;
    assert_eq!(server.metrics.disconnects.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_real_engine_a_whole_search_is_gone_and_others_are_unaffected() {
    let server = serve().await;
    let other = json!({
        "reasoning_effort": "medium", "seed": 4, "temperature": 1,
        "messages": [{"role": "user", "content": PUZZLE}],
    });
    let alone = server.chat(other.clone()).await;
    for (times, stream) in [(1, true), (2, false)] {
        let fields = json!({
            "reasoning_effort": "max", "stream": stream, "temperature": 1.5,
            "messages": [{"role": "user", "content": PUZZLE}],
        });
        let finished = choices(&server).await;
        let leaver = server.raw(&server.raw_chat(fields)).await;
        let metrics = Arc::clone(&server.metrics);
        if stream {
            let head = read(&leaver).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        }
        // As many as half of the pool holds.
        eventually("the search is wide", || metrics.engine.branches.get() > 20).await;
        // Begun while the search runs, ended after it is gone.
        let company = server.chat(other.clone());
        let watch = async {
            drop(leaver);
            let metrics = &server.metrics;
            eventually("the server notices", || metrics.disconnects.get() == times).await;
            let steps = metrics.engine.steps.get();
            // The other request has eight branches and a root.
            eventually("the search is gone", || metrics.engine.branches.get() <= 9).await;
            metrics.engine.steps.get() - steps
        };
        let (company, steps) = tokio::join!(company, watch);
        // The step in hand, the one within which it must be gone, and those that
        // pass while the watcher sleeps; the search had hundreds before it.
        assert!(steps <= 25, "{steps} steps after the server had noticed");
        assert_eq!(company["choices"], alone["choices"], "nobody else notices");
        assert_eq!(company["search"], alone["search"]);
        assert_eq!(choices(&server).await, finished + 1, "the search never came to its end");
        let cached = server.metrics.cached_tokens.with_label_values(&["mcts"]).get();
        assert!(cached > 0, "what it had of the prompt is counted all the same");
        server.idle().await;
    }
}

/// More than lies between a server and a client that does not read: 32 MiB in words of
/// 16 KiB.
fn long_words() -> Vec<String> {
    vec!["a".repeat(1 << 14); 1 << 11]
}

/// A request for those, streamed, for which nothing is read yet.
async fn unread(server: &Served, fields: Value) -> TcpStream {
    let mut fields = fields;
    fields["stream"] = json!(true);
    fields["reasoning"]["mode"] = json!("direct");
    fields["max_completion_tokens"] = json!(1 << 15);
    let admitted = || server.metrics.queue_seconds.get_sample_count();
    let before = admitted();
    let stream = server.raw(&server.raw_chat(fields)).await;
    eventually("it is admitted", || admitted() > before).await;
    stream
}

/// Reads a stream whose end is whole, with a pause before each bit of it.
async fn read_to_the_end(stream: &TcpStream, pause: Duration) {
    let mut last = String::new();
    while !last.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n") {
        tokio::time::sleep(pause).await;
        let more = read(stream).await;
        assert_ne!(more, "", "it was cut behind {last}");
        last = last.split_off(last.len().saturating_sub(64)) + &more;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_nothing_beyond_the_deadline() {
    let pace = Pace::default();
    let args = ServeArgs { max_concurrency: 1, ..ServeArgs::default() };
    let server = serve_scripted_with(
        pace.script(
            |_| long_words(),
            |_| {
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            },
        ),
        args,
    )
    .await;
    let stream = unread(&server, json!({"reasoning": {"budget": {"seconds": 1}}})).await;
    eventually("its place is free", || server.metrics.requests_running.get() == 0).await;
    eventually("every branch is gone", || pace.live.load(Ordering::SeqCst) == 0).await;
    assert_eq!(server.metrics.disconnects.get(), 0, "it is still there");
    assert_eq!(
        server.chat(json!({"reasoning_effort": "none", "max_tokens": 1})).await["usage"]["completion_tokens"],
        1
    );
    // And it can still have all of it.
    read_to_the_end(&stream, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_for_too_long_is_cut_and_one_that_reads_slowly_is_not() {
    let pace = Pace::default();
    let args = ServeArgs { header_timeout: 1, ..ServeArgs::default() };
    let server = serve_scripted_with(pace.script(|_| long_words(), |_| Ok(())), args).await;
    let stream = unread(&server, json!({})).await;
    eventually("it is cut", || server.metrics.disconnects.get() == 1).await;
    eventually("every branch is gone", || pace.live.load(Ordering::SeqCst) == 0).await;
    drop(stream);

    // In all it takes longer than one that reads nothing may.
    let stream = unread(&server, json!({})).await;
    read_to_the_end(&stream, Duration::from_millis(5)).await;
    assert_eq!(server.metrics.disconnects.get(), 1);
}

async fn choices(server: &Served) -> u64 {
    server.counter("espalier_choices_total").await
}
