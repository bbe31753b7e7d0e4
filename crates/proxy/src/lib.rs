//! Skiff: proxy.
