//! Policy documents: AWS's grammar, read strictly and compiled.
//!
//! In: JSON text of one policy and the place it is meant for. Out: a [`Document`] or every mistake in it.
//! A document is compiled once per content; whoever it binds to shares it.

mod condition;
mod date;
mod document;
mod parse;
mod principal;
mod resource;
mod statement;
mod template;

pub use condition::ConditionError;
pub use document::{Attached, Document, DocumentKind, Library};
pub use principal::{Caller, PrincipalError};
pub use resource::ArnError;
pub use statement::{Effect, Statement};
pub use template::VariableError;

pub(crate) use condition::{Condition, Quantifier};
pub(crate) use date::parse as parse_date;
pub(crate) use document::read;
pub(crate) use principal::Fit;
pub(crate) use resource::ResourcePattern;
pub use statement::Miss;
pub(crate) use statement::Question;
