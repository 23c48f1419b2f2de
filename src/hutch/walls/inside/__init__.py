"""What is run inside a sandbox: the sources of these modules are sent there as text.

They import the standard library and each other, nothing else. A function that returns has done what
it should not have been able to do, and says so; one that raises ``OSError`` was refused. Nothing
here changes the host if it succeeds: files are opened and not written, calls get arguments that
the kernel refuses once it has let the caller pass.
"""
