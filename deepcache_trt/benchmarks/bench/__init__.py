"""The published table of DeepCache on this machine: `deepcache-trt bench`."""
