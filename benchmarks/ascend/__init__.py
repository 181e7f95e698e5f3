"""The training graphs compiled for Ascend: without a device by stand-in libraries, or on one."""
