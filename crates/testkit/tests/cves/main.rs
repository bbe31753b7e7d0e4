//! The server under attack and under load: what was once broken elsewhere, limits, overload, audit and encryption at rest.

mod asking;
mod audit;
mod encryption;
mod flow;
mod fuzz;
mod identity;
mod overload;
mod requests;
mod sockets;
