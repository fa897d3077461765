//! `Params` to [`Plan`]: the effort table, the budget rules, the engine's
//! limits.

use super::mode::Pool;
use super::{
    Budget, Config, Effort, Marker, Mode, ModeName, Params, Plan, PlanError, Row, Settings, Terms, Verifiers,
    split,
};
use crate::engine::{Caps, Sampling};
use crate::prompt::{self, ChatTemplate, PromptError, StopRule, Tokenizer};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

mod conversation;
mod fit;

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
    /// What steps can be verified with.
    pub verifiers: Verifiers,
}

/// Branches that a budget without a bound of its own lets a tree search make.
const MOST_BRANCHES: u32 = 1 << 16;

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
        let marker = match parts.prompt.border() {
            None => None,
            Some(border) => Some(Marker {
                inject: parts
                    .tokenizer
                    .encode(&format!("{}{}", parts.prompt.step_separator, border.marker))?,
                inject_after_separator: parts.tokenizer.encode(&border.marker)?,
                separator: parts.prompt.step_separator.clone(),
                border,
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
        let temperature =
            params.temperature.or(row.terms.temperature).unwrap_or(self.parts.defaults.temperature);
        let sampling = self.sampling(params, temperature)?;
        let (prompt, marker) = self.prompt(params, &row)?;
        let mut notes = Vec::new();
        let context = self.parts.caps.context;
        let room = self.room(prompt.len())?;
        let tokens = self.tokens(params, &row)?;
        let branches = branches(params)?;
        let least = tokens.iter().copied().min().unwrap_or(1);
        let most = branches.iter().copied().min();
        let settings = settings(params, &row, &mut notes)?;
        let mut own_notes = Vec::new();
        let wanted = Mode::new(row.mode, &settings, self.parts.verifiers, &mut own_notes);
        let kind = wanted.kind();
        let longest = tokens.iter().copied().max().unwrap_or(1).min(room);
        let positions = prompt.len() + longest as usize;
        if tokens.iter().any(|tokens| *tokens > room) && prompt.len() + (room as usize) < context {
            notes.push(format!("a branch has at most {room} tokens, as the KV pool holds no more"));
        }
        // As many as fit at the usual length; where some get longer, the engine preempts.
        let usual = positions.min(prompt.len() + 2 * self.parts.config.branch_tokens as usize);
        let pool = self.pool(prompt.len(), usual);
        let asked = params.budget.answer_reserve;
        let kept = if marker.is_some() { self.reserve(asked, least.min(room)) } else { 0 };
        let mode = self.fitting(wanted, temperature, ((least, kept), most, pool), &mut notes);
        // Of a mode that was given up only that is said.
        notes.extend(own_notes.into_iter().filter(|_| mode.kind() == kind));
        // The table's own budgets are what its searches are meant to have.
        notes.extend(self.shortage(&mode, (least, kept)).filter(|_| least < row.terms.budget));
        let thinking = !matches!(mode, Mode::Direct);
        // Of a direct answer nothing is kept for bringing a thought to its end.
        let completes = thinking && marker.is_some();
        let verifier_tokens = params.budget.verifier_tokens.map(|total| split(total, params.n));
        if let Some(asked) = asked.filter(|&asked| asked > 0) {
            let most = least.min(room);
            let why = match (thinking, &marker) {
                (false, _) => Some("direct has no thought to bring to its answer".to_owned()),
                (true, None) => Some("the model has no answer marker".to_owned()),
                (true, Some(_)) if asked >= most => Some(format!("a trajectory has at most {most} tokens")),
                (true, Some(_)) => None,
            };
            notes.extend(why.map(|why| format!("answer_reserve of {asked} was lowered, as {why}")));
        }
        let choices: Vec<Budget> = tokens
            .iter()
            .enumerate()
            .map(|(index, &tokens)| Budget {
                tokens,
                reserve: if completes { self.reserve(asked, tokens.min(room)) } else { 0 },
                branches: match mode.branches() {
                    Some(own) => own,
                    None => branches.get(index).copied().unwrap_or(MOST_BRANCHES),
                },
                branch_tokens: room,
                sample: self.parts.config.branch_tokens,
                verifier_tokens: verifier_tokens.as_ref().map(|shares| shares[index]),
            })
            .collect();

        let made: usize = choices.iter().map(|budget| budget.branches as usize).sum();
        let fits = mode.alive_in(pool, params.n);
        let live = (fits as usize).min(made);
        // Votes take turns; what a search makes of its tree depends on what it can keep.
        if mode.tree().is_some() && live < made.min(mode.least_alive().min(mode.alive()) as usize) {
            notes.push(format!("at most {live} branches are alive at once, as the KV pool holds no more"));
        }
        Ok(Plan {
            prompt: prompt.into(),
            effort,
            settings: mode.settings(),
            mode,
            sampling,
            seed: params.seed.map_or(drawn_seed, i64::cast_unsigned),
            choices,
            live,
            positions,
            stop: Arc::new(StopRule {
                strings: params.stop.clone(),
                border: marker.as_ref().map(|marker| marker.border.clone()),
            }),
            marker,
            separator: self.parts.prompt.step_separator.as_str().into(),
            priority: params.priority,
            cache_salt: params.cache_salt.clone(),
            logprobs: params.logprobs,
            deadline: params.budget.seconds.map(deadline),
            messages: params.messages.as_slice().into(),
            notes,
        })
    }

    /// Tokens that a branch may have behind a prompt: what the context leaves, and what
    /// the KV pool has room for.
    fn room(&self, prompt: usize) -> Result<u32, PlanError> {
        let caps = &self.parts.caps;
        let context = caps.context;
        if context <= prompt {
            return Err(PlanError::ContextLength { tokens: prompt, context });
        }
        let held = caps.longest(prompt);
        if held <= prompt {
            let needed = caps.blocks_for(prompt, prompt + 1, 1);
            return Err(PlanError::Pool { needed, blocks: caps.pool_blocks });
        }
        Ok(u32::try_from(held.min(context) - prompt).unwrap_or(u32::MAX))
    }

    /// Tokens kept for completing an answer, of so many that one trajectory may
    /// have; always fewer.
    fn reserve(&self, asked: Option<u32>, tokens: u32) -> u32 {
        let kept = asked.unwrap_or_else(|| (tokens / 4).min(self.parts.config.answer_reserve));
        kept.min(tokens.saturating_sub(1))
    }

    /// What the KV pool has beside a prompt, for branches that get that long.
    fn pool(&self, prompt: usize, usual: usize) -> Pool {
        let caps = &self.parts.caps;
        let count = |blocks: usize| u32::try_from(blocks).unwrap_or(u32::MAX);
        let shared = caps.blocks_for(prompt, usual, 0);
        Pool {
            blocks: count(caps.pool_blocks.saturating_sub(shared)),
            whole: count(caps.blocks_for(prompt, usual, 1) - shared),
            block: count(caps.block),
            sample: self.parts.config.branch_tokens,
        }
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
            None | Some(ModeName::Standard) => own.clone(),
            Some(ModeName::Pro) => config.row(Effort::Max).clone(),
            Some(mode) if own.mode == mode => own.clone(),
            // A mode by name: its own terms, else its weakest row's, with the
            // effort's budget where that is larger.
            Some(mode) => {
                let weakest = || Effort::ALL.into_iter().map(|effort| config.row(effort));
                let listed = || weakest().find(|row| row.mode == mode).map(|row| &row.terms);
                let terms = match config.modes.get(&mode).or_else(listed) {
                    Some(terms) => Terms { budget: own.terms.budget.max(terms.budget), ..terms.clone() },
                    None => self.unlisted(mode, own.terms.budget),
                };
                Row { mode, terms }
            }
        }
    }

    /// Terms of a mode of which the configuration says nothing: its default
    /// parameters, the temperature of its relatives, and a budget in which it can do
    /// what it does.
    fn unlisted(&self, mode: ModeName, budget: u32) -> Terms {
        let config = &self.parts.config;
        let searching = !matches!(mode, ModeName::Direct | ModeName::Cot);
        let rows = || Effort::ALL.into_iter().map(|effort| config.row(effort));
        let related = |row: &&Row| !matches!(row.mode, ModeName::Direct | ModeName::Cot);
        let relative = rows().find(related).filter(|_| searching);
        Terms {
            temperature: relative.and_then(|row| row.terms.temperature),
            budget: if searching {
                rows().map(|row| row.terms.budget).max().unwrap_or(budget).max(budget)
            } else {
                budget
            },
            settings: Settings::default(),
        }
    }

    /// Tokens of each choice: its own bound and its part of the request's; the
    /// row's where neither is set.
    fn tokens(&self, params: &Params, row: &Row) -> Result<Vec<u32>, PlanError> {
        let shares = match params.budget.tokens.map(NonZeroU32::get) {
            Some(value) if value < params.n => {
                let alias = params.budget.by_max_tokens;
                let field = if alias { "reasoning.max_tokens" } else { "reasoning.budget.tokens" };
                return Err(PlanError::BudgetBelowChoices { field, value, n: params.n });
            }
            Some(total) => split(total, params.n).into_iter().map(Some).collect(),
            None => vec![None; params.n as usize],
        };
        let own = params.max_completion_tokens.map(NonZeroU32::get);
        let bound = |share: Option<u32>| match (share, own) {
            (Some(share), Some(own)) => share.min(own),
            (Some(bound), None) | (None, Some(bound)) => bound,
            (None, None) => row.terms.budget,
        };
        Ok(shares.into_iter().map(bound).collect())
    }
}

/// The row's parameters with the request's over them. A parameter that the mode
/// does not have is refused where the request named the mode, else noted.
fn settings(params: &Params, row: &Row, notes: &mut Vec<String>) -> Result<Settings, PlanError> {
    for (parameter, _) in params.settings.iter() {
        let spec = parameter.spec();
        if spec.modes.contains(&row.mode) {
            continue;
        }
        let (parameter, mode) = (spec.name, row.mode.name());
        if params.mode == Some(row.mode) {
            return Err(PlanError::Parameter { parameter, mode });
        }
        notes.push(format!("{parameter} is no parameter of {mode}, the mode of this effort"));
    }
    Ok(row.terms.settings.overlaid(&params.settings))
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
