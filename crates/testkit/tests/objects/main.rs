//! What is written, and what is refused: pod security, admission plugins that are off by default, old versions.

mod admission_plugins;
mod devices;
mod legacy;
mod pod_security;
mod requests;
