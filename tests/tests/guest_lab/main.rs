//! The guest lab itself, without a guest: what it leaves behind when it is killed, and what it says where nothing can be
//! fetched.

mod killed;
mod offline;
