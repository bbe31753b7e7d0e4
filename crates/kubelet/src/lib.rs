//! Skiff: kubelet.
