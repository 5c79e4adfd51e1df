"""What the Rust client has of its own: its tests, its checks, its examples."""
