//! The server under attack and under load: what was once broken elsewhere, limits, overload, audit and encryption at rest.

mod asking;
mod audit;
mod encryption;
mod flow;
mod front_proxy;
mod fuzz;
mod identity;
mod images;
mod overload;
mod recorded;
mod requests;
mod sockets;
