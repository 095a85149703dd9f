//! The manual's chapters, as they stand in `broker/manual/`.

#[doc = include_str!("../manual/architecture.md")]
pub mod architecture {}
#[doc = include_str!("../manual/request-path.md")]
pub mod request_path {}
#[doc = include_str!("../manual/formats.md")]
pub mod formats {}
#[doc = include_str!("../manual/keys.md")]
pub mod keys {}
#[doc = include_str!("../manual/threat-model.md")]
pub mod threat_model {}
#[doc = include_str!("../manual/authentication.md")]
pub mod authentication {}
#[doc = include_str!("../manual/policies.md")]
pub mod policies {}
#[doc = include_str!("../manual/credentials.md")]
pub mod credentials {}
#[doc = include_str!("../manual/operations.md")]
pub mod operations {}
#[doc = include_str!("../manual/clients.md")]
pub mod clients {}
#[doc = include_str!("../manual/errors.md")]
pub mod errors {}
#[doc = include_str!("../manual/dependencies.md")]
pub mod dependencies {}
#[doc = include_str!("../manual/glossary.md")]
pub mod glossary {}
