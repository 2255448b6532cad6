"""What `graft doctor` looks at, a module a subject: each check yields findings and may raise what it likes."""
