//! Images: names, storage, import, pull, and the layers that containers are made of.

mod archive;
pub mod blobs;
mod build;
pub mod document;
mod guard;
mod layers;
pub mod reference;
mod registry;
mod store;
pub mod unpack;
pub mod user;

pub use build::LayerBuilder;
pub use document::{Execution, ImageConfig};
pub use reference::ImageReference;
pub use registry::{Credentials, Progress, ProgressFn, Registries};
pub use store::{ImageError, ImageStore, StoredImage, write_whole};
pub use unpack::Limits;
