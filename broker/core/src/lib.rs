//! The words every room shares: ids, names, error codes, the clock, limits.
//!
//! In: raw bytes and strings from the door. Out: checked types; holding one is the proof of its check.
//!
//! Must not: do I/O (the system clock behind [`Clock`] is the one exception), know of any other room.

mod clock;
mod error_code;
mod ids;
pub mod limits;
mod names;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error_code::ErrorCode;
pub use ids::{ClusterId, PartitionId, ShardId, TenantId, TopicId};
pub use names::{GroupId, NameError, TopicName};
