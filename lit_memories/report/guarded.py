"""What is said of a model that is erased at inference only, and of which numbers can see it."""

from lit_memories.statistics.quantities import RunStatistics


def guard_sentences(run: RunStatistics) -> list[str]:
    """That the weights are those of another model, and where the guard acts, and where not; nothing without one."""
    guard = run.guard
    if guard is None:
        return []
    options = ", ".join(
        f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in guard.settings.items()
    )
    whose = (
        "The weights are vanilla's to the bit; it is erased only while the guard is on, and with it off it is vanilla"
        if guard.on_vanilla
        else "It is guarded besides what was done to its weights, which another run without the guard tells apart"
    )
    sees = {
        "guidance": "The guard acts on guidance alone: what is asked without guidance, as surprise, likelihood and "
        "seeds are at guidance 1, never meets it and tells what the weights hold; samples and attacks with guidance "
        "meet it.",
        "prompts": "The guard acts on what the network is told of a prompt: surprise, seeds and samples under the "
        "concept's prompts meet it, and what is asked without a prompt tells what the weights hold.",
    }[guard.acts_on]
    return [f"{whose} ({guard.name}{': ' if options else ''}{options}).", sees]
