# coding: utf-8
# word-ish LSTM language model with hidden state carried over, SGD lr 20 + clip 0.25 as in the PyTorch examples
import torch
import torch.nn as nn
from pydoc_data.topics import topics

torch.manual_seed(1111)
torch.set_num_threads(1)
text = ''.join(topics[k] for k in sorted(topics))[:20000]
vocab = sorted(set(text))
ids = torch.tensor([vocab.index(c) for c in text])
BS, BPTT = 10, 20
nbatch = len(ids) // BS
data = ids[:nbatch * BS].view(BS, -1).t().contiguous()


class RNNModel(nn.Module):
    def __init__(self, ntoken, ninp, nhid, nlayers, dropout=0.2):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=dropout)
        self.decoder = nn.Linear(nhid, ntoken)
        self.encoder.weight.data.uniform_(-0.1, 0.1)
        self.decoder.weight.data.uniform_(-0.1, 0.1)

    def forward(self, x, hidden):
        out, hidden = self.rnn(self.drop(self.encoder(x)), hidden)
        return self.decoder(self.drop(out)), hidden


model = RNNModel(len(vocab), 48, 96, 2)
criterion = nn.CrossEntropyLoss()
lr = 20
for epoch in range(2):
    hidden = (torch.zeros(2, BS, 96), torch.zeros(2, BS, 96))
    total = 0
    for n, i in enumerate(range(0, data.size(0) - 1 - BPTT, BPTT)):
        x, y = data[i:i + BPTT], data[i + 1:i + 1 + BPTT].reshape(-1)
        model.zero_grad()
        hidden = tuple(h.detach() for h in hidden)
        output, hidden = model(x, hidden)
        loss = criterion(output.view(-1, len(vocab)), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-lr)
        total += loss.item()
    print('| end of epoch {:3d} | loss {:5.2f}'.format(epoch, total / (n + 1)))
    lr /= 4
print('final_loss=%.5f' % (total / (n + 1)))
