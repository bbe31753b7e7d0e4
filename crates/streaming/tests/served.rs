//! Both ends together, through a real HTTP server: our own clients, and every kubectl that is installed.

#[path = "served/server.rs"]
mod server;

#[path = "served/kubectl.rs"]
mod kubectl;
#[path = "served/own.rs"]
mod own;
