//! Removes images that nobody uses when the disk fills up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use skiff_base::Shutdown;
use skiff_runtime::cri;
use tonic::{Request, Status};

use crate::context::Context;

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_secs(300);
/// Images are removed when more than this part of the disk is used, in percent.
const HIGH: u64 = 85;
/// They are removed until no more than this part is used.
const LOW: u64 = 80;

/// Looks after the images until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = context.clock.sleep(LOOK) => {}
            () = shutdown.triggered() => return,
        }
        collect(&context, false).await;
    }
}

/// An image and whether it may be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Which images to remove to free `wanted` bytes: the largest first, so that few are lost.
#[must_use]
pub fn choose(mut unused: Vec<Candidate>, wanted: u64) -> Vec<Candidate> {
    unused.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let mut freed = 0u64;
    let mut chosen = Vec::new();
    for candidate in unused {
        if freed >= wanted {
            break;
        }
        freed = freed.saturating_add(candidate.size);
        chosen.push(candidate);
    }
    chosen
}

/// Removes unused images if the disk is full, or all of them when `pressed`; how many bytes that freed.
pub async fn collect(context: &Context, pressed: bool) -> u64 {
    let Ok(stat) = nix::sys::statvfs::statvfs(&context.config.root_dir) else {
        return 0;
    };
    let capacity = stat.blocks().saturating_mul(stat.fragment_size());
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let used = capacity.saturating_sub(free);
    let wanted = if pressed {
        u64::MAX
    } else if used > capacity / 100 * HIGH {
        used - capacity / 100 * LOW
    } else {
        return 0;
    };
    match remove(context, wanted).await {
        Ok(freed) => freed,
        Err(error) => {
            tracing::warn!(%error, "cannot remove unused images");
            0
        }
    }
}

/// The images that no container uses and that are not there for good, as the built-in ones are.
fn unused(images: &[cri::Image], in_use: &BTreeSet<String>) -> Vec<Candidate> {
    let names = |image: &cri::Image| -> Vec<String> {
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        names.chain([&image.id]).cloned().collect()
    };
    let unused = images
        .iter()
        .filter(|image| !image.pinned && !names(image).iter().any(|name| in_use.contains(name)));
    unused
        .map(|image| Candidate {
            id: image.id.clone(),
            size: image.size,
        })
        .collect()
}

async fn remove(context: &Context, wanted: u64) -> Result<u64, Status> {
    let runtime = &context.runtime;
    let request = Request::new(cri::ListImagesRequest::default());
    let images = runtime
        .images
        .list_images(request)
        .await?
        .into_inner()
        .images;
    let containers = runtime.containers(None).await?;
    let in_use: BTreeSet<String> = containers
        .into_iter()
        .flat_map(|c| [c.image_ref, c.image_id, c.image.unwrap_or_default().image])
        .collect();
    let unused = unused(&images, &in_use);
    let mut freed = 0;
    for candidate in choose(unused, wanted) {
        let request = Request::new(cri::RemoveImageRequest {
            image: Some(cri::ImageSpec {
                image: candidate.id.clone(),
                ..Default::default()
            }),
        });
        runtime.images.remove_image(request).await?;
        tracing::info!(
            image = candidate.id,
            size = candidate.size,
            "removed an unused image"
        );
        freed += candidate.size;
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_large_ones() {
        let image = |id: &str, size| Candidate {
            id: id.into(),
            size,
        };
        let all = vec![image("a", 10), image("b", 50), image("c", 30)];
        let ids = |wanted| -> Vec<String> {
            choose(all.clone(), wanted)
                .into_iter()
                .map(|c| c.id)
                .collect()
        };
        assert_eq!(ids(0), Vec::<String>::new());
        assert_eq!(ids(50), ["b"]);
        assert_eq!(ids(60), ["b", "c"]);
        assert_eq!(ids(u64::MAX), ["b", "c", "a"]);
    }

    #[test]
    fn built_in_and_used_images_stay() {
        let image = |id: &str, tag: &str, pinned| cri::Image {
            id: id.into(),
            repo_tags: vec![tag.into()],
            size: 1,
            pinned,
            ..Default::default()
        };
        let images = [
            image("1", "skiff.local/demo:latest", true),
            image("2", "used-by-name:1", false),
            image("3", "used-by-id:1", false),
            image("4", "unused:1", false),
        ];
        let in_use = BTreeSet::from(["used-by-name:1".to_owned(), "3".to_owned()]);
        let unused = unused(&images, &in_use);
        assert_eq!(unused.iter().map(|c| &*c.id).collect::<Vec<_>>(), ["4"]);
    }
}
