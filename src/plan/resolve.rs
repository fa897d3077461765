//! `Params` to [`Plan`]: the effort table, the budget rules, the engine's
//! limits.

use super::{Budget, Config, Effort, Marker, Mode, ModeName, Params, Plan, PlanError, Row, split};
use crate::engine::{Caps, Sampling};
use crate::prompt::{self, ChatTemplate, PromptError, StopRule, Tokenizer, with_instruction};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Tokens that the answer reserve never exceeds.
const LARGEST_RESERVE: u32 = 512;

/// The longest deadline: a year. Clocks overflow beyond some point.
const LONGEST_DEADLINE: Duration = Duration::from_secs(86_400 * 365);

/// What a planner is made of.
#[derive(Debug)]
pub struct PlannerParts {
    /// The effort table.
    pub config: Config,
    /// Instruction and marker.
    pub prompt: prompt::Config,
    /// The model's chat template.
    pub template: ChatTemplate,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The engine's limits.
    pub caps: Caps,
    /// The model's own sampling defaults.
    pub defaults: Sampling,
}

/// Makes plans for one model.
#[derive(Debug)]
pub struct Planner {
    parts: PlannerParts,
    marker: Option<Marker>,
}

impl Planner {
    /// A planner for a model.
    ///
    /// # Errors
    /// When the tokenizer refuses the answer marker.
    pub fn new(parts: PlannerParts) -> Result<Self, PromptError> {
        let marker = match &parts.prompt.answer_marker {
            None => None,
            Some(text) => Some(Marker {
                inject: parts.tokenizer.encode(&format!("{}{text}", parts.prompt.step_separator))?,
                inject_after_separator: parts.tokenizer.encode(text)?,
                text: text.clone(),
                shown: parts.prompt.answer_marker_shown,
                separator: parts.prompt.step_separator.clone(),
            }),
        };
        Ok(Self { parts, marker })
    }

    /// Plans a request. `drawn_seed` is used where the request brings none.
    ///
    /// # Errors
    /// When the request contradicts itself or cannot fit the model.
    pub fn plan(&self, params: &Params, drawn_seed: u64) -> Result<Plan, PlanError> {
        let effort = params.effort.unwrap_or(self.parts.config.default_effort);
        let row = self.row(effort, params.mode);
        let temperature = params.temperature.or(row.temperature).unwrap_or(self.parts.defaults.temperature);
        let sampling = self.sampling(params, temperature)?;
        let prompt = self.prompt(params, row)?;
        let context = self.parts.caps.context;
        let room = match context.checked_sub(prompt.len()) {
            Some(room) if room > 0 => u32::try_from(room).unwrap_or(u32::MAX),
            _ => return Err(PlanError::ContextLength { tokens: prompt.len(), context }),
        };

        let mut notes = Vec::new();
        let tokens = self.tokens(params, row)?;
        let branches = branches(params)?;
        let least = tokens.iter().copied().min().unwrap_or(1);
        let most = branches.iter().copied().min();
        let mode = self.mode(params, row, (temperature, least, most), &mut notes);
        let thinking = !matches!(mode, Mode::Direct);
        let marker = self.marker.clone().filter(|_| thinking);
        let choices: Vec<Budget> = tokens
            .iter()
            .map(|&tokens| Budget {
                tokens,
                reserve: if marker.is_some() { (tokens.min(room) / 4).min(LARGEST_RESERVE) } else { 0 },
                branches: mode.branches(),
                branch_tokens: room,
            })
            .collect();

        let longest = tokens.iter().copied().max().unwrap_or(1).min(room);
        let positions = prompt.len() + longest as usize;
        let caps = &self.parts.caps;
        if caps.widest(prompt.len(), positions) == 0 {
            let needed = caps.blocks_for(prompt.len(), positions, 1);
            return Err(PlanError::Pool { needed, blocks: caps.pool_blocks });
        }
        // As many as fit when they get as long as branches usually do. Where
        // some get longer, or others need room, the engine preempts.
        let usual = positions.min(prompt.len() + 2 * self.parts.config.branch_tokens as usize);
        let fits = caps.widest(prompt.len(), usual).max(1);
        let live = (choices.len() * mode.branches() as usize).min(fits);
        Ok(Plan {
            prompt: prompt.into(),
            effort,
            mode,
            sampling,
            seed: params.seed.map_or(drawn_seed, i64::cast_unsigned),
            choices,
            live,
            positions,
            stop: Arc::new(StopRule {
                strings: params.stop.clone(),
                after: marker.as_ref().map(|marker| marker.text.clone()),
            }),
            marker,
            priority: params.priority,
            cache_salt: params.cache_salt.clone(),
            logprobs: params.logprobs,
            deadline: params.budget.seconds.map(deadline),
            notes,
        })
    }

    /// How tokens are drawn: as the request says, else as the model likes it.
    fn sampling(&self, params: &Params, temperature: f32) -> Result<Sampling, PlanError> {
        let (asked, own) = (&params.sampling, &self.parts.defaults);
        let vocab = self.parts.caps.vocab;
        if let Some(&(id, _)) = asked.logit_bias.iter().find(|(id, _)| *id as usize >= vocab) {
            return Err(PlanError::Vocabulary { id, vocab });
        }
        Ok(Sampling {
            temperature,
            top_p: params.top_p.unwrap_or(own.top_p).max(f32::MIN_POSITIVE),
            top_k: asked.top_k.unwrap_or(own.top_k),
            min_p: asked.min_p.unwrap_or(own.min_p),
            repetition_penalty: asked.repetition_penalty.unwrap_or(own.repetition_penalty),
            frequency_penalty: asked.frequency_penalty,
            presence_penalty: asked.presence_penalty,
            bias: asked.logit_bias.as_slice().into(),
        })
    }

    /// The row of the table that a request selects.
    fn row(&self, effort: Effort, mode: Option<ModeName>) -> Row {
        let config = &self.parts.config;
        let own = config.row(effort);
        match mode {
            None | Some(ModeName::Standard) => own,
            Some(ModeName::Pro) => config.row(Effort::Max),
            Some(mode) if own.mode == mode => own,
            // A mode by name: its weakest row, with the effort's budget.
            Some(mode) => {
                let listed =
                    Effort::ALL.into_iter().map(|effort| config.row(effort)).find(|row| row.mode == mode);
                let row = listed.unwrap_or(Row { mode, branches: 8, temperature: None, budget: own.budget });
                Row { budget: own.budget.max(row.budget), ..row }
            }
        }
    }

    fn prompt(&self, params: &Params, row: Row) -> Result<Vec<u32>, PromptError> {
        let rendered = if row.mode == ModeName::Direct {
            self.parts.template.render(&params.messages)?
        } else {
            let messages = with_instruction(&params.messages, &self.parts.prompt.chain_of_thought);
            self.parts.template.render(&messages)?
        };
        self.parts.tokenizer.encode_prompt(&rendered)
    }

    /// Tokens of each choice: its own bound and its part of the request's; the
    /// row's where neither is set.
    fn tokens(&self, params: &Params, row: Row) -> Result<Vec<u32>, PlanError> {
        let shares = match params.budget.tokens.map(NonZeroU32::get) {
            Some(value) if value < params.n => {
                return Err(PlanError::BudgetBelowChoices {
                    field: "reasoning.budget.tokens",
                    value,
                    n: params.n,
                });
            }
            Some(total) => split(total, params.n).into_iter().map(Some).collect(),
            None => vec![None; params.n as usize],
        };
        let own = params.max_completion_tokens.map(NonZeroU32::get);
        let bound = |share: Option<u32>| match (share, own) {
            (Some(share), Some(own)) => share.min(own),
            (Some(bound), None) | (None, Some(bound)) => bound,
            (None, None) => row.budget,
        };
        Ok(shares.into_iter().map(bound).collect())
    }

    /// The mode that fits: no wider than the tokens and branches allow.
    fn mode(
        &self,
        params: &Params,
        row: Row,
        (temperature, tokens, most): (f32, u32, Option<u32>),
        notes: &mut Vec<String>,
    ) -> Mode {
        let single = match row.mode {
            ModeName::Direct => Some(Mode::Direct),
            ModeName::Cot | ModeName::Standard | ModeName::Pro => Some(Mode::ChainOfThought),
            ModeName::SelfConsistency => None,
        };
        if let Some(mode) = single {
            if let Some(branches) = params.branches.filter(|branches| branches.get() > 1) {
                notes.push(format!("{branches} branches were asked for, and {} has one", mode.name()));
            }
            return mode;
        }
        let wanted = params.branches.map_or(row.branches, NonZeroU32::get);
        if temperature <= 0.0 && wanted > 1 {
            notes.push(format!("temperature 0 makes all {wanted} branches equal, so one was run"));
            return Mode::ChainOfThought;
        }
        let mut width = wanted;
        if let Some(most) = most.filter(|most| *most < width) {
            notes.push(format!("width lowered from {width} to {most} by reasoning.budget.branches"));
            width = most;
        }
        let affordable = (tokens / self.parts.config.branch_tokens).max(1);
        if affordable < width {
            let each = self.parts.config.branch_tokens;
            notes.push(format!(
                "width lowered from {width} to {affordable}: {tokens} tokens are enough for {affordable} at {each} each"
            ));
            width = affordable;
        }
        if width == 1 { Mode::ChainOfThought } else { Mode::SelfConsistency { branches: width } }
    }
}

/// A deadline, the longest where it lies further away than that.
fn deadline(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0))
        .map_or(LONGEST_DEADLINE, |limit| limit.min(LONGEST_DEADLINE))
}

/// Branches of each choice, where the request bounds them.
fn branches(params: &Params) -> Result<Vec<u32>, PlanError> {
    match params.budget.branches.map(NonZeroU32::get) {
        None => Ok(Vec::new()),
        Some(value) if value < params.n => {
            Err(PlanError::BudgetBelowChoices { field: "reasoning.budget.branches", value, n: params.n })
        }
        Some(total) => Ok(split(total, params.n)),
    }
}

#[cfg(test)]
mod tests;
