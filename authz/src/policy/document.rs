//! A policy document and the library that keeps one of each content.

use std::collections::HashMap;
use std::sync::Arc;

use super::parse;
use super::statement::Statement;
use crate::finding::{Finding, Findings, Problem, Severity};
use crate::json::{self, Node};

/// What a document is meant for. Decides what may stand in it and how long it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentKind {
    /// Attached to users, groups or roles.
    Identity,
    /// A permission boundary.
    Boundary,
    /// Given when a session begins.
    Session,
    /// A guardrail of the organisation (AWS: service control policy).
    Guardrail,
    /// AWS: resource control policy.
    ResourceControl,
    /// Attached to a cluster.
    Resource,
    /// Who may assume a role.
    Trust,
}

impl DocumentKind {
    /// Whether its statements name principals.
    #[must_use]
    pub const fn has_principals(self) -> bool {
        matches!(self, Self::Resource | Self::Trust | Self::ResourceControl)
    }

    /// AWS's limit in characters, blanks not counted.
    #[must_use]
    pub const fn characters_max(self) -> usize {
        match self {
            Self::Identity | Self::Boundary => 6_144,
            Self::Guardrail | Self::ResourceControl => 5_120,
            Self::Session | Self::Trust => 2_048,
            Self::Resource => 20_480,
        }
    }
}

/// A compiled policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub(crate) statements: Box<[Statement]>,
    /// Another version, judged in parallel and never in force.
    pub(crate) shadow: Option<Arc<Document>>,
}

impl Document {
    /// Its statements in order.
    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// The same document with a version to try beside it.
    pub(crate) fn with_shadow(&self, shadow: Arc<Self>) -> Self {
        Self { statements: self.statements.clone(), shadow: Some(shadow) }
    }
}

/// A document under the name it is attached by.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The policy's name, as decisions tell it.
    pub name: Arc<str>,
    /// The policy.
    pub document: Arc<Document>,
}

/// Reads one document. `Some` when every statement could be compiled, even if findings of lesser weight (limits, a
/// misplaced `Principal`) were made: a simulation may go on, a set is refused by any error.
pub(crate) fn read(node: &Node, kind: DocumentKind, findings: &mut Findings<'_>) -> Option<Document> {
    parse::document(node, kind, findings)
}

/// One compiled document per kind and content. Contents are compared in full, never by a hash alone.
#[derive(Debug, Default)]
pub struct Library {
    documents: HashMap<(DocumentKind, Box<str>), Arc<Document>>,
}

impl Library {
    /// Compiles a file's text, or finds it compiled. `None` with at least one new error in `list`.
    pub fn compile(
        &mut self,
        kind: DocumentKind,
        file: &Arc<str>,
        text: &str,
        list: &mut Vec<Finding>,
    ) -> Option<Arc<Document>> {
        let key = (kind, Box::from(text));
        if let Some(document) = self.documents.get(&key) {
            return Some(Arc::clone(document));
        }
        let before = list.len();
        let mut findings = Findings { file: Arc::clone(file), list };
        let characters = text.chars().filter(|c| !c.is_whitespace()).count();
        let max = kind.characters_max();
        if characters > max {
            findings.add(json::Position::START, Problem::TooLong { characters, max });
        }
        let document = match json::read(text) {
            Ok(node) => read(&node, kind, &mut findings),
            Err((at, error)) => {
                findings.add(at, Problem::Json(error));
                None
            }
        };
        if list.iter().skip(before).any(|f| f.severity() == Severity::Error) {
            return None;
        }
        let document = Arc::new(document?);
        self.documents.insert(key, Arc::clone(&document));
        Some(document)
    }

    /// Forgets documents that nothing is attached to any more.
    pub fn sweep(&mut self) {
        self.documents.retain(|_, document| Arc::strong_count(document) > 1);
    }

    /// How many different documents there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }
}
