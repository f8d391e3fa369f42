"""Run a network: one module a run time, all behind `engines.base.Engine`."""
