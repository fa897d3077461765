//! Whether a server's numbers are scores: it is shown short solutions that are
//! right, and the same with a plain mistake.
//!
//! Two numbers that mean nothing look like probabilities once a softmax was over
//! them, and a search by them looks like any other. What costs too little to be
//! charged to a request, six solutions of one step, tells.

use super::super::VerifyError;
use super::super::lease::Transcript;
use super::{Remote, RemoteError};

/// What an answered probe says of a server: its numbers are scores, or
/// [`RemoteError::Noise`].
pub(super) type Verdict = Result<(), RemoteError>;

/// Problems, each with a step that is right and one that is wrong.
const PAIRS: [[&str; 3]; 3] = [
    ["What is 1 + 1?", "1 + 1 = 2. The answer is: 2", "1 + 1 = 5. The answer is: 5"],
    [
        "Tom has 3 apples and buys 4 more. How many apples does Tom have now?",
        "Tom has 3 + 4 = 7 apples now. The answer is: 7",
        "Tom has 3 + 4 = 12 apples now. The answer is: 12",
    ],
    [
        "A book costs 6 dollars. How many dollars do 5 books cost?",
        "5 books cost 5 * 6 = 30 dollars. The answer is: 30",
        "5 books cost 5 * 6 = 11 dollars. The answer is: 11",
    ],
];

/// By how much the right ones must be scored higher on the average. A model that was
/// trained for it is surer than that of mistakes much smaller; of what columns of a
/// hidden state have in common at equal tokens, less is left.
const MARGIN: f64 = 0.2;

/// Asks the server.
///
/// # Errors
/// When it does not answer, which says nothing about its scores.
pub(super) async fn probe(remote: &Remote) -> Result<Verdict, RemoteError> {
    let noise = |what: String| Ok(Err(RemoteError::Noise { url: remote.base.clone(), what }));
    let mut means = [0.0; 2];
    for [problem, steps @ ..] in PAIRS {
        for (mean, step) in means.iter_mut().zip(steps) {
            let transcript = Transcript { problem: problem.into(), steps: vec![step.to_owned()] };
            match remote.ask(&transcript, 1).await {
                Ok((scores, _)) => *mean += scores.iter().sum::<f64>() / PAIRS.len() as f64,
                Err(VerifyError::Remote(RemoteError::Answer { what, .. })) => return noise(what),
                Err(VerifyError::Remote(error)) => return Err(error),
                Err(error) => return noise(error.to_string()),
            }
        }
    }
    let [right, wrong] = means;
    if right - wrong >= MARGIN {
        return Ok(Ok(()));
    }
    noise(format!("it gives right steps {right:.2} and plainly wrong ones {wrong:.2} on the average"))
}
