//! What was measured: one JSON document, or tables for people.

use super::fairness::Fairness;
use super::llama::Peer;
use super::spread::Spread;
use super::workload::Name;
use crate::engine::tree::model::alone::Dealing;
use serde::{Serialize, Serializer};
use std::io::{self, Write};

/// All figures of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What was measured.
    pub model: String,
    /// Its weights.
    pub parameters: usize,
    /// Threads of the forward pass, of products alone and of NumPy.
    pub threads: usize,
    /// The instruction set of the kernels.
    pub instructions: &'static str,
    /// Runs of each workload.
    pub runs: usize,
    /// Tokens that each branch decoded on the clock.
    pub new_tokens: usize,
    /// The system's load over a minute, before and after.
    pub load_average: [Option<f64>; 2],
    /// One per workload.
    pub workloads: Vec<Row>,
    /// Tokens per second of C over those of B.
    pub c_over_b: Option<f64>,
    /// The matrix products, by rows and shape.
    pub products: Vec<Product>,
    /// What NumPy is, where it was asked.
    pub numpy: Option<String>,
    /// The attention kernel alone, by workload.
    pub attention: Vec<Kernel>,
    /// Workload D with grouping on and off.
    pub grouping: Option<Grouping>,
    /// A chat beside a search.
    pub fairness: Option<Fairness>,
    /// llama.cpp on the same workloads, where it was asked.
    pub llama: Vec<Peer>,
    /// mistral.rs on workload C, where it was asked.
    pub mistralrs: Option<Stock>,
}

/// mistral.rs on workload C.
#[derive(Debug, Serialize)]
pub(super) struct Stock {
    /// With its prefix cache off.
    pub off: Cell,
    /// With its prefix cache on.
    pub on: Cell,
    /// Our tokens per second by its better ones.
    pub ratio: Option<f64>,
}

/// A figure that may not be had.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cell {
    /// Tokens per second.
    TokensPerSecond(Spread),
    /// Why there is none.
    Failed(String),
}

impl From<Result<Spread, String>> for Cell {
    fn from(result: Result<Spread, String>) -> Self {
        match result {
            Ok(rate) => Self::TokensPerSecond(rate),
            Err(why) => Self::Failed(why),
        }
    }
}

/// One workload.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Its name.
    pub name: Name,
    /// Branches.
    pub branches: usize,
    /// Tokens that all share.
    pub shared: usize,
    /// The fewest and most tokens of their own before the clock starts.
    pub own: [usize; 2],
    /// Decoded tokens of all branches per second.
    pub tokens_per_second: Spread,
    /// The time by the steps that were needed at least, in milliseconds.
    pub step_ms: Spread,
    /// Steps that the engine made.
    pub steps: Spread,
    /// The products of such a step alone.
    pub roofline: Roofline,
    /// Time of the roofline by time of the step, run by run.
    pub share: Spread,
    /// The same with the faster of our product and NumPy's for each shape.
    pub share_of_fastest: Option<f64>,
    /// How much the branches share.
    pub sharing: Sharing,
}

/// The time that a step's products take alone, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Roofline {
    /// How matrix products were dealt: the way that was fastest before the runs.
    #[serde(serialize_with = "dealt")]
    pub dealing: Dealing,
    /// Matrix products.
    pub products_ms: Spread,
    /// Attention's two products.
    pub attention_ms: Spread,
}

/// Positions when the last token came.
#[derive(Debug, Serialize)]
pub(super) struct Sharing {
    /// Different ones, as the engine counted them.
    pub unique: u64,
    /// Different ones in the tree, by arithmetic.
    pub expected: u64,
    /// Over all branches.
    pub leaves: u64,
    /// Computed more than once.
    pub recomputed: u64,
    /// Different ones by those over all branches.
    pub ratio: f64,
}

/// The products of a number of rows with all matrices of one shape.
#[derive(Debug, Serialize)]
pub(super) struct Product {
    /// Rows.
    pub rows: usize,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// Matrices of this shape.
    pub count: usize,
    /// Ours, in billions of operations per second.
    pub gflops: f64,
    /// NumPy's.
    pub openblas_gflops: Option<f64>,
}

/// Attention alone at the middle step of a workload.
#[derive(Debug, Serialize)]
pub(super) struct Kernel {
    /// The workload.
    pub name: Name,
    /// Nanoseconds by row and layer, rows with shared blocks together.
    pub grouped_ns_per_row: f64,
    /// The same, each row for itself.
    pub ungrouped_ns_per_row: f64,
    /// How often the first goes into the second.
    pub ratio: f64,
    /// Nanoseconds by row, layer and position attended to, grouped.
    pub grouped_ns_per_position: f64,
    /// The same, each row for itself.
    pub ungrouped_ns_per_position: f64,
    /// Rate of the two products alone, grouped, in billions of operations per
    /// second.
    pub products_gflops: f64,
}

/// A workload with rows attending in groups and each for itself.
#[derive(Debug, Serialize)]
pub(super) struct Grouping {
    /// Tokens per second, grouped.
    pub on: Spread,
    /// Tokens per second, each for itself.
    pub off: Spread,
    /// How often the second goes into the first.
    pub ratio: f64,
}

fn dealt<S: Serializer>(dealing: &Dealing, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(word(*dealing))
}

fn word(dealing: Dealing) -> &'static str {
    match dealing {
        Dealing::Single => "single",
        Dealing::Rows => "rows",
        Dealing::Outputs => "outputs",
    }
}

impl Product {
    /// Floating-point operations of one pass.
    pub(super) fn flops(&self) -> f64 {
        2.0 * (self.rows * self.k * self.n * self.count) as f64
    }

    /// The faster rate of the two.
    fn best(&self) -> f64 {
        self.openblas_gflops.map_or(self.gflops, |theirs| theirs.max(self.gflops))
    }
}

impl Row {
    /// Sets the share of the fastest product's roofline, where both products
    /// are known: our time, cut by what the faster product would save.
    pub(super) fn judge(&mut self, products: &[Product]) {
        let mine: Vec<&Product> = products.iter().filter(|p| p.rows == self.branches).collect();
        if mine.is_empty() || mine.iter().any(|p| p.openblas_gflops.is_none()) {
            return;
        }
        let ours: f64 = mine.iter().map(|p| p.flops() / p.gflops).sum();
        let best: f64 = mine.iter().map(|p| p.flops() / p.best()).sum();
        let products = self.roofline.products_ms.median * best / ours;
        self.share_of_fastest = Some((products + self.roofline.attention_ms.median) / self.step_ms.median);
    }
}

impl Report {
    /// Prints the tables.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let load = |load: Option<f64>| load.map_or("unknown".to_owned(), |load| format!("{load:.2}"));
        writeln!(
            out,
            "{}: {:.2} M parameters, {} new tokens a branch, {} threads ({}), median of {} runs \
             (slowest - fastest), load average {} before and {} after",
            self.model,
            self.parameters as f64 / 1e6,
            self.new_tokens,
            self.threads,
            self.instructions,
            self.runs,
            load(self.load_average[0]),
            load(self.load_average[1]),
        )?;
        writeln!(
            out,
            "\n   branches  shared   own    tokens/s     slowest - fastest   ms/step  products  attention  \
             share  lowest - highest  of fastest"
        )?;
        for row in &self.workloads {
            row.line(out)?;
        }
        writeln!(out, "share: time of the step's products alone (both columns) by time of the step")?;
        if let Some(ratio) = self.c_over_b {
            writeln!(out, "C / B: {ratio:.3} of the tokens per second")?;
        }
        writeln!(out, "\n   live unique tokens  sum of leaves   ratio  recomputed  steps")?;
        for Row { name, sharing, steps, .. } in &self.workloads {
            writeln!(
                out,
                "{name:?}  {:>18}  {:>13}  {:>6.4}  {:>10}  {:>5.0}",
                sharing.unique, sharing.leaves, sharing.ratio, sharing.recomputed, steps.median
            )?;
            if sharing.unique != sharing.expected {
                writeln!(out, "   the tree has {} different positions", sharing.expected)?;
            }
        }
        self.products(out)?;
        self.attention(out)?;
        self.fairness(out)?;
        self.peers(out)
    }

    fn fairness(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(Fairness { beside_one, beside_many, ratio, many, first_token_steps }) = &self.fairness
        else {
            return Ok(());
        };
        writeln!(
            out,
            "\na chat of one branch: {:.0} tokens/s beside another, {:.0} beside 256 branches of one request \
             (which get {:.0}): {:.0} %; first token {:.0} steps after its prompt",
            beside_one.median,
            beside_many.median,
            many.median,
            ratio * 100.0,
            first_token_steps.median
        )
    }

    fn peers(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.llama.is_empty() {
            writeln!(
                out,
                "\nllama.cpp  branches  KV            tokens/s     slowest - fastest   ours / its  (it has no unlike lengths: C is its B)"
            )?;
        }
        for Peer { name, branches, kv, tokens_per_second: rate, ratio } in &self.llama {
            writeln!(
                out,
                "{name:?}  {branches:>15}  {kv:<10}  {:>10.0}  {:>9.0} - {:>9.0}  {ratio:>11.2}",
                rate.median, rate.lowest, rate.highest
            )?;
        }
        let Some(stock) = &self.mistralrs else { return Ok(()) };
        writeln!(out)?;
        for (cache, cell) in [("off", &stock.off), ("on", &stock.on)] {
            match cell {
                Cell::TokensPerSecond(rate) => writeln!(
                    out,
                    "mistral.rs on C, prefix cache {cache}: {:.0} tokens/s ({:.0} - {:.0})",
                    rate.median, rate.lowest, rate.highest
                )?,
                Cell::Failed(why) => writeln!(out, "mistral.rs on C, prefix cache {cache}: {why}")?,
            }
        }
        stock.ratio.map_or(Ok(()), |ratio| writeln!(out, "C, ours / mistral.rs' better one: {ratio:.1}"))
    }

    fn products(&self, out: &mut dyn Write) -> io::Result<()> {
        let theirs = self.numpy.as_deref().unwrap_or("");
        writeln!(out, "\nproducts  rows      k        n  matrices   GFLOP/s  {theirs}")?;
        for p in &self.products {
            let openblas = p.openblas_gflops.map_or(String::new(), |rate| format!("  {rate:>7.1}"));
            writeln!(
                out,
                "          {:>4}  {:>5}  {:>7}  {:>8}   {:>7.1}{openblas}",
                p.rows, p.k, p.n, p.count, p.gflops
            )?;
        }
        Ok(())
    }

    fn attention(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\nattention alone   ns/row and layer: grouped  ungrouped  times   ns/position: grouped  \
             ungrouped   products' GFLOP/s"
        )?;
        for k in &self.attention {
            writeln!(
                out,
                "{:?}  {:>39.0}  {:>9.0}  {:>5.2}  {:>21.3}  {:>9.3}  {:>18.1}",
                k.name,
                k.grouped_ns_per_row,
                k.ungrouped_ns_per_row,
                k.ratio,
                k.grouped_ns_per_position,
                k.ungrouped_ns_per_position,
                k.products_gflops
            )?;
        }
        let of = |name: Name| self.attention.iter().find(|kernel| kernel.name == name);
        if let Some((c, d)) = of(Name::C).zip(of(Name::D)) {
            writeln!(
                out,
                "by position, D grouped is {:.2} times faster than C ungrouped",
                c.ungrouped_ns_per_position / d.grouped_ns_per_position
            )?;
        }
        if let Some(Grouping { on, off, ratio }) = &self.grouping {
            writeln!(
                out,
                "D as a whole: grouped {:.0} tokens/s ({:.0} - {:.0}), ungrouped {:.0} ({:.0} - {:.0}), \
                 {ratio:.2} times",
                on.median, on.lowest, on.highest, off.median, off.lowest, off.highest
            )?;
        }
        Ok(())
    }
}

impl Row {
    fn line(&self, out: &mut dyn Write) -> io::Result<()> {
        let own = match self.own {
            [from, to] if from == to => from.to_string(),
            [from, to] => format!("{from}-{to}"),
        };
        let (rate, share) = (self.tokens_per_second, self.share);
        let fastest = self.share_of_fastest.map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0));
        writeln!(
            out,
            "{:?}  {:>8}  {:>6}  {own:>4}  {:>10.0}  {:>9.0} - {:>9.0}  {:>8.3}  {:>8.3}  {:>9.3}  \
             {:>5.1}  {:>6.1} - {:>5.1} %  {fastest:>10}",
            self.name,
            self.branches,
            self.shared,
            rate.median,
            rate.lowest,
            rate.highest,
            self.step_ms.median,
            self.roofline.products_ms.median,
            self.roofline.attention_ms.median,
            share.median * 100.0,
            share.lowest * 100.0,
            share.highest * 100.0,
        )
    }
}
