//! Every series the server exports, declared once, in one struct with its own
//! registry.
//!
//! All of them are atomics: reading `/metrics` takes no lock that the scheduler
//! holds. Labels come from closed sets of ours, never from requests.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

pub use prometheus::IntCounter as Counter;

/// The series, by what they count.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// HTTP responses, by route and status.
    pub http_responses: IntCounterVec,
    /// Time from a request's arrival to the end of its response head, seconds.
    pub http_seconds: Histogram,
    /// Chat requests whose client left before the end.
    pub disconnects: IntCounter,
    /// Choices finished, by mode and stop reason.
    pub choices: IntCounterVec,
    /// Tokens generated, by mode, as usage reports them.
    pub tokens: IntCounterVec,
    /// Branches made, by mode.
    pub branches: IntCounterVec,
    /// Tokens sampled by the engine.
    pub engine_sampled: IntCounter,
    /// Tokens injected into branches.
    pub engine_injected: IntCounter,
    /// Positions whose KV was computed for the first time.
    pub engine_computed: IntCounter,
    /// Positions computed once more because their logits were needed again.
    pub engine_recomputed: IntCounter,
    /// Positions of prompts that were looked up in the prefix index.
    pub engine_looked_up: IntCounter,
    /// Positions whose KV was found in the prefix index.
    pub engine_reused: IntCounter,
    /// KV blocks of prefixes that were given up for others.
    pub engine_evicted: IntCounter,
    /// Branches that lost their KV to others for a while.
    pub engine_preempted: IntCounter,
    /// Steps run.
    pub engine_steps: IntCounter,
    /// Duration of a step, seconds.
    pub engine_step_seconds: Histogram,
    /// Positions in a step.
    pub engine_step_positions: Histogram,
    /// Branches alive.
    pub engine_branches: IntGauge,
    /// KV blocks in use.
    pub engine_blocks_used: IntGauge,
    /// KV blocks that no branch uses and that hold prefixes for later.
    pub engine_blocks_idle: IntGauge,
    /// KV blocks in the pool.
    pub engine_blocks: IntGauge,
    /// Requests that wait for admission.
    pub engine_waiting: IntGauge,
}

impl Metrics {
    /// A fresh registry with every series at zero.
    ///
    /// # Errors
    /// Only when two series share a name, which a test rules out.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        Ok(Self {
            http_responses: labelled(
                r,
                "espalier_http_responses_total",
                "HTTP responses, by route and status.",
                &["route", "status"],
            )?,
            http_seconds: histogram(
                r,
                "espalier_http_response_seconds",
                "Time from a request's arrival to its response head.",
                prometheus::exponential_buckets(0.0005, 2.0, 20)?,
            )?,
            disconnects: counter(
                r,
                "espalier_client_disconnects_total",
                "Chat requests whose client left before the end.",
            )?,
            choices: labelled(
                r,
                "espalier_choices_total",
                "Choices finished, by mode and stop reason.",
                &["mode", "stop_reason"],
            )?,
            tokens: labelled(
                r,
                "espalier_completion_tokens_total",
                "Tokens generated for requests, as their usage reports them.",
                &["mode"],
            )?,
            branches: labelled(r, "espalier_branches_total", "Branches made, by mode.", &["mode"])?,
            engine_sampled: counter(r, "espalier_engine_sampled_tokens_total", "Tokens sampled.")?,
            engine_injected: counter(
                r,
                "espalier_engine_injected_tokens_total",
                "Tokens injected into branches, for example to complete an answer.",
            )?,
            engine_computed: counter(
                r,
                "espalier_engine_computed_positions_total",
                "Positions whose KV was computed for the first time.",
            )?,
            engine_recomputed: counter(
                r,
                "espalier_engine_recomputed_positions_total",
                "Positions computed once more because their logits were needed again.",
            )?,
            engine_looked_up: counter(
                r,
                "espalier_engine_prefix_queried_positions_total",
                "Positions of prompts that were looked up in the prefix index.",
            )?,
            engine_reused: counter(
                r,
                "espalier_engine_prefix_reused_positions_total",
                "Positions whose KV was found in the prefix index.",
            )?,
            engine_evicted: counter(
                r,
                "espalier_engine_prefix_evicted_blocks_total",
                "KV blocks of prefixes that were given up for others.",
            )?,
            engine_preempted: counter(
                r,
                "espalier_engine_preempted_branches_total",
                "Branches that lost their KV to others for a while.",
            )?,
            engine_steps: counter(r, "espalier_engine_steps_total", "Forward passes.")?,
            engine_step_seconds: histogram(
                r,
                "espalier_engine_step_seconds",
                "Duration of a step.",
                prometheus::exponential_buckets(0.0001, 2.0, 16)?,
            )?,
            engine_step_positions: histogram(
                r,
                "espalier_engine_step_positions",
                "Positions computed in a step.",
                prometheus::exponential_buckets(1.0, 2.0, 12)?,
            )?,
            engine_branches: gauge(r, "espalier_engine_branches", "Branches alive.")?,
            engine_blocks_used: gauge(r, "espalier_engine_kv_blocks_used", "KV blocks in use.")?,
            engine_blocks_idle: gauge(
                r,
                "espalier_engine_kv_blocks_idle",
                "KV blocks that no branch uses and that hold prefixes for later.",
            )?,
            engine_blocks: gauge(r, "espalier_engine_kv_blocks", "KV blocks in the pool.")?,
            engine_waiting: gauge(
                r,
                "espalier_engine_waiting_requests",
                "Requests that wait for KV blocks before they start.",
            )?,
            registry,
        })
    }

    /// The registry in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// When a series cannot be encoded.
    pub fn render(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
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

fn labelled(
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

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn every_series_has_a_name_of_its_own_and_shows_up_with_help() {
        let metrics = Metrics::new().expect("names are unique");
        metrics.engine_sampled.inc_by(3);
        let text = metrics.render().expect("renders");
        assert!(text.contains("espalier_engine_sampled_tokens_total 3"), "{text}");
        assert!(text.contains("# HELP espalier_engine_kv_blocks_used KV blocks in use."), "{text}");
    }
}
