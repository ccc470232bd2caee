# shim: removed when the redesign is merged
