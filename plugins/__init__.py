"""What the daemon does: one folder a feature. Imported as `middlewared.plugins`, never as `plugins`."""

if __name__ == "plugins":
    raise ImportError("import middlewared.plugins, not plugins: see ARCHITECTURE.md, 'The tree'")
