//! Sockets: the listener and one connection. Bytes in, frames to `dispatch`, answers out in order.

mod before;
mod connection;
mod listener;

pub use connection::BUDGET_UNIT_BYTES;
pub use listener::serve;
