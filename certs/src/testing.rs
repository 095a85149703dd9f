//! Shared by tests of this room.
