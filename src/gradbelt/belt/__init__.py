"""The belt: gradients are measured, seen against the past, judged, decided on, applied, recorded.

    fasten    puts a belt around optimizers              measure   gradients -> Measurement, with what is `beside` them
    belt      what a user holds, and the two hooks       derive    Measurement, History -> Signals; and what is learnt
    closure   steps that evaluate more than once         judge     Signals -> Verdict
    loop      one step through all stages                decide    Measurement, History -> Action, by a rule
    late      one that the host does not wait for        apply     Action -> gradients; in the step: `fold`, `updates`
    memory    what is remembered from step to step       record    all of it -> StepRecord

`forward` looks at what modules put out in chosen forward passes, `activations` says what a look shows. `account` keeps
what `Belt.advice` is made of; `buckle`, with `agree` and `misfits`, checks in the first steps whether clipping is put
on right. `derive` and `judge` load no torch, so a record can be replayed without it.
"""
