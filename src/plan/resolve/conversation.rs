//! A conversation to the tokens of a prompt, and where the answer to it begins.

use super::{Planner, PlannerParts};
use crate::plan::{Border, Marker, ModeName, Params, PlanError, Row};
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

    /// Where the answer to a rendered conversation begins. A thought that the template
    /// opens is closed again for a direct answer (Ma et al., arXiv 2504.09858).
    fn answer_begins(&self, rendered: &mut String, direct: bool) -> Option<Marker> {
        let mut marker = self.marker.clone()?;
        let Border { marker: end, opening, .. } = &mut marker.border;
        let said = rendered.trim_end();
        match opening {
            None => return Some(marker).filter(|_| !direct),
            Some(_) if said.ends_with(end.as_str()) => return None,
            Some(opening) if !said.ends_with(opening.as_str()) => {}
            Some(_) if direct => {
                rendered.truncate(said.len());
                rendered.push_str(&format!("\n\n{end}\n\n"));
                return None;
            }
            // A thought is under way.
            Some(_) => *opening = None,
        }
        Some(marker)
    }
}
