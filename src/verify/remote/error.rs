//! What goes wrong with a process reward model on another server.

/// Why another server does not score, as its operator is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// The address is none.
    #[error("'{url}' is not reached by HTTP: {cause}; give --prm an address such as http://host:8000/")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// An address with more than a place: it is told in logs, and secrets are not.
    #[error(
        "the address of --prm has a user, a password, a query or a fragment: name the server alone, and a key by --prm-api-key-env"
    )]
    Login,
    /// No connection, or one that broke.
    #[error("{url} cannot be reached: {cause}")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        cause: String,
    },
    /// No answer in time.
    #[error("{url} has not answered within {seconds} s")]
    TimedOut {
        /// The address.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server refused.
    #[error("{url} refuses with {status}: {message}")]
    Refused {
        /// The address.
        url: String,
        /// The HTTP status code.
        status: u16,
        /// What it says.
        message: String,
    },
    /// An answer that is not what `/pooling` gives.
    #[error("{url} answers what is not understood: {what}")]
    Answer {
        /// The address.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// Scores that are none.
    #[error(
        "{url} does not score steps: {what}; check that its returned_token_ids name the good token first, and \
         that it pools logits: later versions of vLLM take these ids for columns of the hidden states \
         (vllm-project/vllm#16545)"
    )]
    Noise {
        /// The address.
        url: String,
        /// What was found.
        what: String,
    },
    /// A server without models.
    #[error("{0} lists no model; name one with --prm-model")]
    NoModel(String),
    /// A model of which nobody says how it is read.
    #[error(
        "{url} serves '{model}', and how its scores are read is not known: give --prm-format (qwen_prm, math_shepherd, math_psa or versa_prm)"
    )]
    Format {
        /// The address.
        url: String,
        /// The model.
        model: String,
    },
}

impl RemoteError {
    /// What a client is told, who need not know where the server is nor what it says.
    pub(in crate::verify) fn to_a_client(&self) -> String {
        match self {
            Self::Unreachable { .. } => "cannot be reached".to_owned(),
            Self::TimedOut { seconds, .. } => format!("has not answered within {seconds} s"),
            Self::Refused { status, .. } => format!("refuses with {status}"),
            Self::Answer { what, .. } => format!("answers what is not understood: {what}"),
            Self::Noise { .. } => "does not tell right steps from wrong ones".to_owned(),
            Self::Address { .. } | Self::Login | Self::NoModel(_) | Self::Format { .. } => {
                "is not set up".to_owned()
            }
        }
    }
}
