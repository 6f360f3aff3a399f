//! Harness for scenarios with real processes.
