//! Every series the server exports, declared once, in one struct with its own
//! registry.
//!
//! All of them are atomics. Reading `/metrics` takes locks only of the maps
//! that hold labelled series, and the engine's thread touches no labelled one:
//! the scheduler can never wait for a scrape, nor a scrape for the scheduler.
//! Labels come from closed sets of ours, never from requests.
//!
//! Where vLLM has a series of the same meaning, ours has its name behind our
//! prefix. Four series exist under vLLM's own name too, because endpoint pickers
//! and autoscalers read those without being told (Gateway API inference
//! extension, model server protocol); they are filled in when they are read.
//!
//! Length: every series is declared and described here, each in a few lines.

mod engine;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use std::sync::Arc;

pub use engine::EngineMetrics;
pub use prometheus::IntCounter as Counter;

/// Why a chat request was turned away before it was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// As many requests as may are running, and as many as may are waiting.
    QueueFull,
    /// Its deadline passed, or the server stopped, while it waited for a place.
    Waited,
    /// The model is still being loaded.
    Loading,
    /// The server is going down.
    Draining,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Rejection; 4] =
        [Rejection::QueueFull, Rejection::Waited, Rejection::Loading, Rejection::Draining];

    /// The value of the label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rejection::QueueFull => "queue_full",
            Rejection::Waited => "waited_too_long",
            Rejection::Loading => "loading",
            Rejection::Draining => "draining",
        }
    }
}

/// The series, by what they count.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// HTTP responses, by route and status.
    pub http_responses: IntCounterVec,
    /// Time from a request's arrival to the end of its response head, by route, seconds.
    pub http_seconds: HistogramVec,
    /// Chat requests whose client left before the end.
    pub disconnects: IntCounter,
    /// Connections cut because a request did not arrive in time.
    pub request_timeouts: IntCounter,
    /// Chat requests that hold a place.
    pub requests_running: IntGauge,
    /// Chat requests that wait for a place.
    pub requests_queued: IntGauge,
    /// Chat requests turned away, by reason.
    pub requests_rejected: IntCounterVec,
    /// Time from a chat request's arrival to its admission by the engine, seconds.
    pub queue_seconds: Histogram,
    /// Time from a chat request's arrival to its first generated token, by mode, seconds.
    pub first_token_seconds: HistogramVec,
    /// Time between two tokens of one branch, by mode, seconds.
    pub inter_token_seconds: HistogramVec,
    /// Time from a chat request's arrival to the end of its answer, by mode, seconds.
    pub request_seconds: HistogramVec,
    /// Prompt tokens of a chat request, by mode.
    pub request_prompt_tokens: HistogramVec,
    /// Tokens generated for a chat request, by mode.
    pub request_tokens: HistogramVec,
    /// Choices finished, by mode and stop reason.
    pub choices: IntCounterVec,
    /// Tokens generated, by mode, as usage reports them.
    pub tokens: IntCounterVec,
    /// Prompt tokens of admitted requests, by mode.
    pub prompt_tokens: IntCounterVec,
    /// Prompt tokens taken from another request's KV, by mode.
    pub cached_tokens: IntCounterVec,
    /// Branches made, by mode.
    pub branches: IntCounterVec,
    /// Branches that came to a complete end, by mode.
    pub branches_kept: IntCounterVec,
    /// Branches given up, by mode.
    pub branches_pruned: IntCounterVec,
    /// Tokens that verifiers were given to read, their own prompts included.
    pub verifier_tokens: IntCounter,
    /// Steps of solutions that were scored.
    pub verifier_steps: IntCounter,
    /// Time from the beginning of a scoring to its scores, seconds.
    pub verifier_seconds: Histogram,
    /// Requests and scorings at which a verifier failed.
    pub verifier_errors: IntCounter,
    /// Of the engine that generates.
    pub engine: Arc<EngineMetrics>,
    /// Of the engine on which a bundled process reward model reads; all zero
    /// where the verifier is none or remote.
    pub verifier_engine: Arc<EngineMetrics>,
    derived: Derived,
}

/// Series that follow from others when they are read.
#[derive(Debug)]
struct Derived {
    kv_usage: Gauge,
    running: IntGauge,
    waiting: IntGauge,
    kv_usage_alias: Gauge,
    cache_config: IntGaugeVec,
}

/// The series of one mode, looked up once instead of once a token.
#[derive(Debug, Clone)]
pub struct ModeMetrics {
    /// Tokens generated.
    pub tokens: IntCounter,
    /// Branches made.
    pub branches: IntCounter,
    /// Branches that came to a complete end.
    pub kept: IntCounter,
    /// Branches given up.
    pub pruned: IntCounter,
    /// From arrival to the first token, seconds.
    pub first_token: Histogram,
    /// Between two tokens of one branch, seconds.
    pub inter_token: Histogram,
}

impl Metrics {
    /// A fresh registry with every series at zero.
    ///
    /// # Errors
    /// Only when two series share a name, which a test rules out.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        // From half a millisecond to 70 minutes, and from 50 us to 1.6 s.
        let long = || prometheus::exponential_buckets(0.0005, 2.0, 24);
        let short = || prometheus::exponential_buckets(0.00005, 2.0, 16);
        let sizes = || prometheus::exponential_buckets(1.0, 4.0, 11);
        let requests_rejected = counters(
            r,
            "espalier_requests_rejected_total",
            "Chat requests turned away before they were planned, by reason.",
            &["reason"],
        )?;
        for reason in Rejection::ALL {
            requests_rejected.with_label_values(&[reason.name()]);
        }
        Ok(Self {
            http_responses: counters(
                r,
                "espalier_http_responses_total",
                "HTTP responses, by route and status.",
                &["route", "status"],
            )?,
            http_seconds: histograms(
                r,
                "espalier_http_response_seconds",
                "Time from a request's arrival to its response head, by route.",
                ("route", long()?),
            )?,
            disconnects: counter(
                r,
                "espalier_client_disconnects_total",
                "Chat requests whose client left before the end.",
            )?,
            request_timeouts: counter(
                r,
                "espalier_request_read_timeouts_total",
                "Requests whose head or body did not arrive in time.",
            )?,
            requests_running: gauge(
                r,
                "espalier_requests_running",
                "Chat requests in flight: those that hold one of the places of --max-concurrency.",
            )?,
            requests_queued: gauge(
                r,
                "espalier_requests_queued",
                "Chat requests that wait for a place, at most --max-queue.",
            )?,
            requests_rejected,
            queue_seconds: histogram(
                r,
                "espalier_request_queue_time_seconds",
                "Time from a chat request's arrival to its admission by the engine.",
                long()?,
            )?,
            first_token_seconds: histograms(
                r,
                "espalier_time_to_first_token_seconds",
                "Time from a chat request's arrival to the first token on any of its branches, by mode.",
                ("mode", long()?),
            )?,
            inter_token_seconds: histograms(
                r,
                "espalier_inter_token_latency_seconds",
                "Time between two sampled tokens of one branch, by mode; in steps of a search that nobody reads \
                 token by token, their mean.",
                ("mode", short()?),
            )?,
            request_seconds: histograms(
                r,
                "espalier_e2e_request_latency_seconds",
                "Time from a chat request's arrival to the end of its answer, by mode.",
                ("mode", long()?),
            )?,
            request_prompt_tokens: histograms(
                r,
                "espalier_request_prompt_tokens",
                "Prompt tokens of an answered chat request, by mode.",
                ("mode", sizes()?),
            )?,
            request_tokens: histograms(
                r,
                "espalier_request_generation_tokens",
                "Tokens generated for an answered chat request over all its branches, by mode.",
                ("mode", sizes()?),
            )?,
            choices: counters(
                r,
                "espalier_choices_total",
                "Choices finished, by mode and stop reason.",
                &["mode", "stop_reason"],
            )?,
            tokens: counters(
                r,
                "espalier_completion_tokens_total",
                "Tokens generated for requests, as their usage reports them, by mode.",
                &["mode"],
            )?,
            prompt_tokens: counters(
                r,
                "espalier_prompt_tokens_total",
                "Prompt tokens of admitted requests, each prompt counted once, by mode.",
                &["mode"],
            )?,
            cached_tokens: counters(
                r,
                "espalier_cached_tokens_total",
                "Prompt tokens taken from another request's KV, by mode.",
                &["mode"],
            )?,
            branches: counters(r, "espalier_branches_total", "Branches made, by mode.", &["mode"])?,
            branches_kept: counters(
                r,
                "espalier_branches_kept_total",
                "Branches that came to a complete end, by mode.",
                &["mode"],
            )?,
            branches_pruned: counters(
                r,
                "espalier_branches_pruned_total",
                "Branches given up before a complete end, by mode.",
                &["mode"],
            )?,
            verifier_tokens: counter(
                r,
                "espalier_verifier_tokens_total",
                "Tokens that verifiers were given to read, their own prompts included.",
            )?,
            verifier_steps: counter(
                r,
                "espalier_verifier_scored_steps_total",
                "Steps of solutions that were scored.",
            )?,
            verifier_seconds: histogram(
                r,
                "espalier_verifier_scoring_seconds",
                "Time from the beginning of a scoring to its scores.",
                long()?,
            )?,
            verifier_errors: counter(
                r,
                "espalier_verifier_errors_total",
                "Requests and scorings at which a verifier failed.",
            )?,
            engine: Arc::new(EngineMetrics::new(r, "espalier_engine")?),
            verifier_engine: Arc::new(EngineMetrics::new(r, "espalier_verifier_engine")?),
            derived: Derived::new(r)?,
            registry,
        })
    }

    /// The series of a mode.
    #[must_use]
    pub fn mode(&self, mode: &str) -> ModeMetrics {
        ModeMetrics {
            tokens: self.tokens.with_label_values(&[mode]),
            branches: self.branches.with_label_values(&[mode]),
            kept: self.branches_kept.with_label_values(&[mode]),
            pruned: self.branches_pruned.with_label_values(&[mode]),
            first_token: self.first_token_seconds.with_label_values(&[mode]),
            inter_token: self.inter_token_seconds.with_label_values(&[mode]),
        }
    }

    /// Counts a chat request that was turned away.
    pub fn reject(&self, reason: Rejection) {
        self.requests_rejected.with_label_values(&[reason.name()]).inc();
    }

    /// Notes the KV pool's shape: positions of a block, and blocks.
    pub fn set_cache(&self, block: usize, blocks: usize) {
        let (block, blocks) = (block.to_string(), blocks.to_string());
        self.derived.cache_config.with_label_values(&[block.as_str(), blocks.as_str()]).set(1);
    }

    /// The registry in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// When a series cannot be encoded.
    pub fn render(&self) -> prometheus::Result<String> {
        self.derive();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    fn derive(&self) {
        self.engine.derive();
        self.verifier_engine.derive();
        // Requests, not branches: pickers take five that wait for a full server.
        let waiting = self.engine.waiting.get();
        self.derived.running.set((self.requests_running.get() - waiting).max(0));
        self.derived.waiting.set(self.requests_queued.get() + waiting);
        let blocks = self.engine.blocks.get().max(1);
        let usage = self.engine.blocks_used.get() as f64 / blocks as f64;
        self.derived.kv_usage.set(usage);
        self.derived.kv_usage_alias.set(usage);
    }
}

impl Derived {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let fraction = |name: &str, help: &str| {
            let series = Gauge::new(name, help)?;
            registry.register(Box::new(series.clone()))?;
            Ok::<_, prometheus::Error>(series)
        };
        let labels = &["block_size", "num_gpu_blocks"];
        let help = "Shape of the KV pool in vLLM's labels; the value is always 1.";
        let cache_config = IntGaugeVec::new(Opts::new("vllm:cache_config_info", help), labels)?;
        registry.register(Box::new(cache_config.clone()))?;
        Ok(Self {
            kv_usage: fraction("espalier_kv_cache_usage_ratio", "KV blocks in use over all blocks, 0 to 1.")?,
            running: gauge(
                registry,
                "vllm:num_requests_running",
                "Chat requests that the engine has admitted, under vLLM's name.",
            )?,
            waiting: gauge(
                registry,
                "vllm:num_requests_waiting",
                "Chat requests that wait for a place or for KV blocks, under vLLM's name.",
            )?,
            kv_usage_alias: fraction(
                "vllm:kv_cache_usage_perc",
                "KV blocks in use over all blocks, 0 to 1, under vLLM's name.",
            )?,
            cache_config,
        })
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let series = IntCounter::new(name, help)?;
    registry.register(Box::new(series.clone()))?;
    Ok(series)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let series = IntGauge::new(name, help)?;
    registry.register(Box::new(series.clone()))?;
    Ok(series)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let series = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(series.clone()))?;
    Ok(series)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
) -> prometheus::Result<Histogram> {
    let series = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
    registry.register(Box::new(series.clone()))?;
    Ok(series)
}

/// A histogram by one label.
fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    (label, buckets): (&str, Vec<f64>),
) -> prometheus::Result<HistogramVec> {
    let series = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &[label])?;
    registry.register(Box::new(series.clone()))?;
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::{Metrics, Rejection};

    #[test]
    fn every_series_has_a_name_of_its_own_and_shows_up_with_help() {
        let metrics = Metrics::new().expect("names are unique");
        metrics.engine.sampled.inc_by(3);
        let text = metrics.render().expect("renders");
        assert!(text.contains("espalier_engine_sampled_tokens_total 3"), "{text}");
        assert!(text.contains("# HELP espalier_engine_kv_blocks_used KV blocks in use."), "{text}");
        for reason in Rejection::ALL {
            let line = format!("espalier_requests_rejected_total{{reason=\"{}\"}} 0", reason.name());
            assert!(text.contains(&line), "{line}: an alert needs the zero before the first");
        }
    }

    #[test]
    fn what_an_engine_looked_up_and_did_not_find_it_missed_and_that_never_falls() {
        let metrics = Metrics::new().expect("names are unique");
        let engine = &metrics.engine;
        let missed = || {
            let text = metrics.render().expect("renders");
            let name = "espalier_engine_prefix_missed_positions_total ";
            let value = text.lines().find_map(|line| line.strip_prefix(name)).expect("the series");
            value.parse::<u64>().expect("a number")
        };
        engine.looked_up.inc_by(50);
        assert_eq!((missed(), missed()), (50, 50));
        // It was asked for while the index was being looked through.
        engine.reused.inc_by(48);
        assert_eq!(missed(), 50);
        engine.looked_up.inc_by(60);
        assert_eq!(missed(), 62);
        assert_eq!(metrics.verifier_engine.looked_up.get(), 0);
    }

    #[test]
    fn latencies_are_told_apart_up_to_the_longest_that_a_request_may_take() {
        let metrics = Metrics::new().expect("names are unique");
        metrics.request_seconds.with_label_values(&["mcts"]).observe(590.0);
        metrics.verifier_seconds.observe(590.0);
        let text = metrics.render().expect("renders");
        for series in
            ["e2e_request_latency_seconds_bucket{mode=\"mcts\",", "verifier_scoring_seconds_bucket{"]
        {
            for (bound, count) in [("524.288", 0), ("1048.576", 1)] {
                let line = format!("espalier_{series}le=\"{bound}\"}} {count}");
                assert!(text.contains(&line), "{line} is not in {text}");
            }
        }
    }

    #[test]
    fn what_gateways_read_follows_from_our_own_series_one_sample_each() {
        let metrics = Metrics::new().expect("names are unique");
        metrics.requests_running.set(7);
        metrics.requests_queued.set(4);
        metrics.engine.waiting.set(2);
        metrics.engine.blocks.set(80);
        metrics.engine.blocks_used.set(20);
        metrics.set_cache(16, 80);
        let text = metrics.render().expect("renders");
        for line in [
            "vllm:num_requests_running 5",
            "vllm:num_requests_waiting 6",
            "vllm:kv_cache_usage_perc 0.25",
            "espalier_kv_cache_usage_ratio 0.25",
            "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"80\"} 1",
        ] {
            let name = line.split(['{', ' ']).next().expect("a name");
            let samples: Vec<&str> =
                text.lines().filter(|l| l.starts_with(name) && !l.starts_with('#')).collect();
            assert_eq!(samples, [line]);
        }
    }
}
