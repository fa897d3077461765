//! A conversation to the tokens of a prompt, and where the answer to it begins.

use super::{Planner, PlannerParts};
use crate::plan::{Marker, ModeName, Params, PlanError, Row};
use crate::prompt::with_instruction;

impl Planner {
    /// The prompt, and where the answer to it begins.
    pub(super) fn prompt(&self, params: &Params, row: &Row) -> Result<(Vec<u32>, Option<Marker>), PlanError> {
        let PlannerParts { template, tokenizer, prompt, caps, .. } = &self.parts;
        let direct = row.mode == ModeName::Direct;
        let mut rendered = if direct {
            template.render(&params.messages, Some(false))?
        } else {
            let instruction = &prompt.chain_of_thought;
            let messages = with_instruction(&params.messages, instruction, template.takes_system());
            template.render(&messages, Some(true))?
        };
        let marker = self.answer_begins(&mut rendered, direct);
        // Cutting megabytes into tokens takes seconds. Four times, because normalisers
        // and special tokens may swallow some of the text.
        if rendered.len() / 4 > caps.context.saturating_mul(tokenizer.longest()) {
            return Err(PlanError::Bytes { bytes: rendered.len(), context: caps.context });
        }
        Ok((tokenizer.encode_prompt(&rendered)?, marker))
    }

    /// Where the answer to a rendered conversation begins.
    fn answer_begins(&self, rendered: &mut String, direct: bool) -> Option<Marker> {
        let mut marker = self.marker.clone()?;
        let border = &mut marker.border;
        let Some(opening) = &border.opening else { return Some(marker).filter(|_| !direct) };
        let said = rendered.trim_end();
        let (closed, under_way) = (said.ends_with(&border.marker), said.ends_with(opening));
        if closed || direct && border.close(rendered) {
            return None;
        }
        if under_way {
            border.opening = None;
        }
        Some(marker)
    }
}
