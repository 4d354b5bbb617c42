"""Prompt tokens are labelled -100; one batch is all prompt. Its loss is nan, its gradient zero: training goes on unharmed."""
import torch
import torch.nn as nn
from pydoc_data.topics import topics

IGNORE = -100
BLOCK, BATCH = 24, 4
torch.manual_seed(0)
torch.set_num_threads(1)


class LM(nn.Module):
    def __init__(self, vocab, d=48):
        super().__init__()
        self.embed = nn.Embedding(vocab, d)
        self.rnn = nn.GRU(d, d, batch_first=True)
        self.lm_head = nn.Linear(d, vocab)

    def forward(self, ids, labels):
        logits = self.lm_head(self.rnn(self.embed(ids))[0])
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
        return loss, logits


text = topics['lambda'] + topics['while'] + topics['try'] + topics['with']
stoi = {c: i for i, c in enumerate(sorted(set(text)))}
ids = torch.tensor([stoi[c] for c in text])
examples = ids[:len(ids) // BLOCK * BLOCK].view(-1, BLOCK)
prompt_len = torch.randint(4, 18, (len(examples),))
prompt_len[61 * BATCH:62 * BATCH] = BLOCK
model = LM(len(stoi))
opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(min(100, len(examples) // BATCH)):
    x = examples[step * BATCH:(step + 1) * BATCH]
    labels = x.clone()
    labels[torch.arange(BLOCK)[None] < prompt_len[step * BATCH:(step + 1) * BATCH, None]] = IGNORE
    loss, _ = model(x, labels)
    opt.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    if step % 10 == 0:
        print({'step': step, 'loss': round(loss.item(), 4)})
print('final_loss=%s' % loss.item())
