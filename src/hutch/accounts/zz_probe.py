import hutch.runs.rows, hutch_runtime.runs
